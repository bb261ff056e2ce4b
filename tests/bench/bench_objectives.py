"""What each architecture and objective learns, beside what knows no order: one figure for each.

    PYTHONPATH=tests/cluster python tests/bench/bench_objectives.py --output objectives.json

All read the interpreter's own documentation, by one tokenizer, in as many steps of as many tokens,
and are measured by the evaluation stage on what is held out. The baseline knows how common tokens
are (of T5 it gets the tokens of spans for nothing); ratios are of losses, so that less is better.
Fine-tuning, by adapters and whole, has a benchmark of its own (`bench_classification`).
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import click
import torch

from llmtrain_trainer.evaluate import run_evaluate
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.train import run_train
from testbed.tiny_run import find_run_folder, prepare_tiny_run

ARCHITECTURES = ("gpt2", "llama", "lstm", "bert", "t5")
SIZE = 1_000_000
BATCH_SIZE, SEQUENCE_LENGTH = 16, 64
VOCABULARY_SIZE = 1024


@click.command()
@click.option("--steps", default=400, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True)
def main(steps: int, threads: int, output: Path) -> None:
    """Train each of them, and write what came out."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="llmtrain-objectives-") as name:
        source = Path(name) / "tiny-bucket" / "topics.txt"
        source.parent.mkdir(parents=True)
        source.write_text("\n".join(topics.values()), encoding="utf-8")
        for architecture in ARCHITECTURES:
            results[architecture] = train(Path(name), architecture, steps, threads)
            click.echo(f"{architecture}: {results[architecture]}")
    record = {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "steps": steps,
        "batchSize": BATCH_SIZE,
        "sequenceLength": SEQUENCE_LENGTH,
        "modelSize": SIZE,
        "vocabularySize": VOCABULARY_SIZE,
        "load": os.getloadavg(),
        "results": results,
    }
    output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def train(root: Path, architecture: str, steps: int, threads: int) -> dict[str, Any]:
    """Train one of them, and measure it on what is held out."""
    config = prepare_tiny_run(
        root,
        run=architecture,
        data={"tokenizer": {"kind": "bpe", "vocabularySize": VOCABULARY_SIZE}},
        model={
            "architecture": architecture,
            "size": SIZE,
            "layers": None,
            "heads": None,
            "hiddenSize": None,
        },
        training={
            "steps": steps,
            "batchSize": BATCH_SIZE,
            "sequenceLength": SEQUENCE_LENGTH,
            "precision": "auto",
            "optimizer": {"learningRate": 0.002},
        },
        evaluation={"everySteps": steps, "maxSequences": 64, "samples": {"maxNewTokens": 1}},
        checkpoint={"everySteps": steps},
        threads_per_process=threads,
    )
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="llmtrain-staging-") as staging:
        group = RankGroup(staging=(staging,))
        run_train(config, group, Reporter(0, lambda update: None), lambda: False)
    seconds = time.perf_counter() - began
    result = run_evaluate(config, RankGroup(), Reporter(0, lambda update: None))
    report = json.loads((find_run_folder(config) / "evaluation" / "report.json").read_text())
    assert result.validation_loss is not None
    assert result.unigram_loss is not None
    return {
        "objective": config.objective.value,
        "parameters": report["parameters"],
        "heldOutLoss": result.validation_loss,
        "baselineLoss": result.unigram_loss,
        "ratio": result.validation_loss / result.unigram_loss,
        "accuracy": result.accuracy,
        "heldOutTargets": report["heldOutTokens"],
        "trainSeconds": seconds,
    }


if __name__ == "__main__":
    main()
