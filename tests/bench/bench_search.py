"""`llmtrain search` for real: Python's own documentation at several sizes, on this machine.

    python tests/bench/bench_search.py --output search.json

Shows that the sizes share their prepared data, that the search stops where it should, that the same
command trains nothing twice, and what each size costs.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import click
import yaml

LLMTRAIN = Path(sys.executable).with_name("llmtrain")

MANIFEST: dict[str, Any] = {
    "apiVersion": "llmtrain.dev/v1alpha1",
    "kind": "LLMTrainingJob",
    "metadata": {"name": "topics"},
    "spec": {
        "data": {
            "sources": [{"uri": "s3://corpus/topics.txt"}],
            "tokenizer": {"kind": "bpe", "vocabularySize": 512},
            "split": {"method": "tail"},
        },
        "training": {"batchSize": 16, "sequenceLength": 64},
        "evaluation": {"samples": {"prompts": ["The"], "maxNewTokens": 16}},
        "workers": {"resources": {"cpu": 2}},
        "storage": {"uri": "s3://models"},
    },
}


@click.command()
@click.option("--sizes", default="800k,400k,200k,100k,50k,25k")
@click.option("--steps", type=int, default=200)
@click.option("--tolerance", default="5%")
@click.option("--output", type=click.Path(path_type=Path), required=True)
def main(sizes: str, steps: int, tolerance: str, output: Path) -> None:
    """Search twice, and write what came out."""
    with tempfile.TemporaryDirectory(prefix="llmtrain-search-") as name:
        folder = Path(name)
        store = folder / "store"
        corpus = store / "corpus" / "topics.txt"
        corpus.parent.mkdir(parents=True)
        corpus.write_text("\n".join(topics.values()), encoding="utf-8")
        MANIFEST["spec"]["training"]["steps"] = steps
        (folder / "job.yaml").write_text(yaml.safe_dump(MANIFEST), encoding="utf-8")
        command = [str(LLMTRAIN), "search", "job.yaml", "--sizes", sizes, "--store", str(store)]
        seconds = []
        for _ in range(2):
            began = time.monotonic()
            subprocess.run([*command, "--tolerance", tolerance], cwd=folder, check=True)
            seconds.append(time.monotonic() - began)
        found = store / "_searches" / "default" / "topics"
        runs = sorted(path.name for path in (store / "_jobs" / "default").iterdir())
        compared = subprocess.run(
            [str(LLMTRAIN), "compare", *runs, "--store", str(store), "--json"],
            check=True,
            capture_output=True,
            text=True,
        )
        record = {
            "machine": platform.processor() or platform.machine(),
            "loadAverage": os.getloadavg(),
            "steps": steps,
            "tolerance": tolerance,
            "secondsOfSearch": seconds[0],
            "secondsOfTheSameAgain": seconds[1],
            "datasets": len(list((store / "models" / "datasets").iterdir())),
            "search": json.loads((found / "search.json").read_text()),
            "runs": json.loads(compared.stdout)["runs"],
        }
        output.with_suffix(".html").write_bytes((found / "search.html").read_bytes())
    output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
