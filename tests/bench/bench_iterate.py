"""The loop on real text: noisy labels, what the evaluation finds, the next run, and what it brings.

    PYTHONPATH=tests/cluster:tests/bench python tests/bench/bench_iterate.py --output iterate.json

Texts are first paragraphs of docstrings of installed packages, labels the packages, as in
`bench_classification`. Of the training part a share of the labels is flipped; the test part, which
is the newest by a time of ours, keeps its labels. All goes by the command line, as a user would:
`run`, `next --keep-training` (the data alone is changed), `run`, `compare`. Beside the two stands
the run that one would have had without noise, and for each seed all three are run anew.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import click
import yaml

from bench_classification import MOST_READ, PACKAGES, read_docstrings

LLMTRAIN = Path(sys.executable).with_name("llmtrain")
OF_A_CLASS = 300
TEST_SHARE, VALIDATION_SHARE = 0.25, 0.1


def describe(name: str, source: str, *, seed: int, steps: int) -> dict[str, Any]:
    """Return the manifest of a small classifier."""
    fields = {"label": "label", "id": "id"}
    return {
        "apiVersion": "llmtrain.dev/v1alpha1",
        "kind": "LLMTrainingJob",
        "metadata": {"name": name},
        "spec": {
            "data": {
                "sources": [
                    {"uri": f"s3://corpus/{source}", "fields": fields, "splitField": "time"}
                ],
                "tokenizer": {"vocabularySize": 2000},
                "split": {
                    "method": "time",
                    "validationFraction": VALIDATION_SHARE,
                    "testFraction": TEST_SHARE,
                },
            },
            "model": {"architecture": "bert", "layers": 2, "heads": 2, "hiddenSize": 64},
            "training": {
                "objective": "classification",
                "steps": steps,
                "batchSize": 32,
                "sequenceLength": 48,
                "seed": seed,
                "optimizer": {"learningRate": 0.002},
            },
            "evaluation": {"split": "test", "everySteps": max(1, steps // 8)},
            "workers": {"resources": {"cpu": 2}},
            "storage": {"uri": "s3://models"},
        },
    }


def write_texts(folder: Path, noise: float, seed: int) -> dict[str, str]:
    """Write clean.jsonl and noisy.jsonl; return the true label of each that was flipped."""
    rng = Random(seed)
    texts = [
        (text, package)
        for package in PACKAGES
        for text in sorted(set(islice(read_docstrings(package), MOST_READ)))[:OF_A_CLASS]
    ]
    rng.shuffle(texts)
    num_training = round((1 - TEST_SHARE - VALIDATION_SHARE) * len(texts))
    flipped = {}
    lines: dict[str, list[str]] = {"clean": [], "noisy": []}
    for number, (text, label) in enumerate(texts):
        told = label
        if number < num_training and rng.random() < noise:
            told = rng.choice([other for other in PACKAGES if other != label])
            flipped[f"d{number}"] = label
        record = {"text": text, "id": f"d{number}", "time": number}
        for kind, given in (("clean", label), ("noisy", told)):
            lines[kind].append(json.dumps({**record, "label": given}) + "\n")
    folder.mkdir(parents=True)
    for kind, of_kind in lines.items():
        (folder / f"{kind}.jsonl").write_text("".join(of_kind), encoding="utf-8")
    return flipped


def iterate(folder: Path, *, noise: float, seed: int, steps: int) -> dict[str, Any]:
    """Run clean, noisy and what follows from noisy; return their metrics."""
    store = folder / "store"
    flipped = write_texts(store / "corpus", noise, seed)

    def call(*arguments: str) -> str:
        done = subprocess.run(
            [str(LLMTRAIN), *arguments, "--store", str(store)],
            cwd=folder,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return done.stdout

    for name in ("clean", "noisy"):
        manifest = describe(name, f"{name}.jsonl", seed=seed, steps=steps)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(manifest), encoding="utf-8")
        call("run", f"{name}.yaml")
    said = call("next", "noisy", "-o", "next.yaml", "--keep-training")
    call("run", "next.yaml")
    told = json.loads(call("compare", "clean", "noisy", "noisy-2", "--json"))
    return {
        "seed": seed,
        "noise": noise,
        "flipped": len(flipped),
        "changes": said.splitlines()[:-1],
        "manifest": (folder / "next.yaml").read_text(encoding="utf-8"),
        "testDocuments": round(TEST_SHARE * OF_A_CLASS * len(PACKAGES)),
        "runs": {run["name"]: run["metrics"] for run in told["runs"]},
        "intervals": {run["name"]: run["intervals"] for run in told["runs"]},
    }


@click.command()
@click.option("--noise", type=float, default=0.2)
@click.option("--seeds", type=int, default=3)
@click.option("--steps", type=int, default=240)
@click.option("--output", type=click.Path(path_type=Path), required=True)
def main(noise: float, seeds: int, steps: int, output: Path) -> None:
    """Go through the loop once for each seed, and write what came out."""
    results = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory(prefix="llmtrain-iterate-") as name:
            results.append(iterate(Path(name), noise=noise, seed=seed, steps=steps))
        record = {
            "machine": platform.processor() or platform.machine(),
            "loadAverage": os.getloadavg(),
            "steps": steps,
            "results": results,
        }
        output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        accuracies = {name: run["accuracy"] for name, run in results[-1]["runs"].items()}
        click.echo(f"seed {seed}: accuracy on clean test data {accuracies}")


if __name__ == "__main__":
    main()
