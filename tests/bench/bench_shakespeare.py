"""What nanoGPT's character-level setting comes to as a manifest, on the text it is known for.

    SHAKESPEARE=tinyshakespeare.txt python tests/bench/bench_shakespeare.py --output quality.json

It is `llmtrain run` with `manifests/examples/shakespeare.yaml` as it is, but for `--precision`.
nanoGPT's README has a loss of 1.88 on held-out text for this. Without the text, which is not ours
to carry, the interpreter's own documentation takes its place, and the figure compares with nothing;
the output says which one it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import click
import yaml

MANIFEST = Path(__file__).parents[2] / "manifests" / "examples" / "shakespeare.yaml"
VARIABLE = "SHAKESPEARE"
PRECISIONS = ("auto", "fp32")
OF_NANOGPT = 1.88


@click.command()
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--precision", "precisions", multiple=True, type=click.Choice(PRECISIONS))
def main(output: Path, precisions: tuple[str, ...]) -> None:
    """Train, and write what came out."""
    given = os.environ.get(VARIABLE)
    text = Path(given).read_text(encoding="utf-8") if given else "\n".join(topics.values())
    record: dict[str, Any] = {
        "text": "Tiny Shakespeare" if given else "Python's documentation",
        "characters": len(text),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "lossOfNanogpt": OF_NANOGPT if given else None,
        "results": {name: train(text, name) for name in precisions or PRECISIONS},
        "load": os.getloadavg(),
    }
    output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(record, indent=1))


def train(text: str, precision: str) -> dict[str, Any]:
    """Run the job in a store of its own, and return its evaluation and its course."""
    job = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))
    job["spec"]["training"]["precision"] = precision
    with tempfile.TemporaryDirectory(prefix="llmtrain-shakespeare-") as name:
        store = Path(name)
        source = store / job["spec"]["data"]["sources"][0]["uri"].removeprefix("s3://")
        source.parent.mkdir(parents=True)
        source.write_text(text, encoding="utf-8")
        manifest = store / "job.yaml"
        manifest.write_text(yaml.safe_dump(job), encoding="utf-8")
        began = time.perf_counter()
        command = Path(sys.executable).with_name("llmtrain")
        subprocess.run([command, "run", manifest, "--store", store], check=True)
        seconds = time.perf_counter() - began
        [report] = store.glob("models/**/evaluation/report.json")
        [curve] = store.glob("models/**/curves.json")
        held_out = [point for point in json.loads(curve.read_text()) if "validationLoss" in point]
        return {
            "seconds": seconds,
            "report": json.loads(report.read_text()),
            "heldOut": held_out,
        }


if __name__ == "__main__":
    main()
