"""What the training stage costs, and learns, beside what one would take in its place.

    PYTHONPATH=tests/cluster python tests/bench/bench_training.py --output training.json

Contestants take turns, each in a process of its own that is forked warm; the order is another one
in each round, so that what else the machine does falls on all of them. Summaries are ratios of
medians over rounds; the raw figures are in the output. All train on the bytes of the same text.

- `nanogpt`: nanoGPT's model and loop in plain torch, fp32 (`gpt_contestant`).
- `trainer`: the Hugging Face Trainer with its GPT-2, fp32.
- `fp32`, `auto`: our training stage with that precision; a checkpoint and an export at its end are
  not timed.

The parts: `speed` (tokens per second, and resident memory); `quality` (the loss on held-out text
after the same steps with the same schedule); `ranks` (two ranks of one thread beside one, ours and
plain DDP); `loss` (the chunked loss beside the plain one, at a vocabulary of 32,000).
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import click
import numpy as np
import torch

from gpt_contestant import LEARNING_RATE, GptShape
from llmtrain_api.network import ModelSpec
from llmtrain_api.run import RunConfig
from llmtrain_api.training import Precision, TrainingSpec
from llmtrain_operator.forecast.activations import RankWork
from llmtrain_operator.forecast.memory import compute_rank_memory
from llmtrain_operator.forecast.size import compute_size
from llmtrain_trainer.dataset.loading import Dataset, open_run_dataset
from llmtrain_trainer.evaluation.measure import choose_sequences
from llmtrain_trainer.linux import count_usable_cores
from llmtrain_trainer.precision import choose_arithmetic
from llmtrain_trainer.prepare import run_prepare
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.store import open_store
from llmtrain_trainer.training.trial import TrialRequest, TrialResult
from training_contestants import NANOGPT, TRAINER, Course, Work, run_other, run_ours

FP32, AUTO = Precision.FP32.value, Precision.AUTO.value
CONTESTANTS = (NANOGPT, TRAINER, FP32, AUTO)
HELD_OUT_SEQUENCES = 64
VOCABULARY_SIZE, LARGE_VOCABULARY_SIZE = 257, 32_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model and its batch."""

    layers: int
    hidden_size: int
    heads: int
    sequence_length: int
    batch_size: int
    warmup_steps: int
    timed_steps: int
    quality_steps: int

    @property
    def name(self) -> str:
        return f"{self.layers}x{self.hidden_size}-T{self.sequence_length}-B{self.batch_size}"


SMALL = Shape(
    layers=4,
    hidden_size=128,
    heads=4,
    sequence_length=64,
    batch_size=12,
    warmup_steps=20,
    timed_steps=150,
    quality_steps=1500,
)
MIDDLE = Shape(
    layers=6,
    hidden_size=384,
    heads=6,
    sequence_length=256,
    batch_size=8,
    warmup_steps=2,
    timed_steps=10,
    quality_steps=200,
)
TINY = Shape(
    layers=1,
    hidden_size=32,
    heads=1,
    sequence_length=16,
    batch_size=4,
    warmup_steps=2,
    timed_steps=4,
    quality_steps=10,
)
"""Only shows that the benchmark runs."""


class Bench:
    """The text, and who trains on it."""

    def __init__(self, root: Path, shape: Shape, threads: int) -> None:
        """Prepare the text as bytes, once for all."""
        self._root, self.shape, self._threads, self._count = root, shape, threads, 0
        first = self._configure(Precision.FP32, steps=1, ranks=1, threads=threads)
        run_prepare(first, Reporter(0, lambda update: None))
        self._prepared = first
        dataset = open_run_dataset(open_store(first.run_uri, first.storage), first)
        self._save_arrays(dataset)

    def run(self, name: str, *, steps: int, ranks: int = 1, threads: int | None = None) -> Course:
        """Train by a contestant; with several ranks each has the batch of the shape."""
        threads = threads or self._threads
        precision = Precision(name) if name in (FP32, AUTO) else Precision.FP32
        config = self._configure(precision, steps=steps, ranks=ranks, threads=threads)
        if name in (FP32, AUTO):
            data = open_store(self._prepared.run_uri, config.storage).read_bytes("dataset.json")
            open_store(config.run_uri, config.storage).write_bytes("dataset.json", data)
            return run_ours(config)
        shape = self.shape
        work = Work(
            shape=GptShape(
                layers=shape.layers,
                heads=shape.heads,
                hidden_size=shape.hidden_size,
                context=shape.sequence_length,
                vocabulary_size=VOCABULARY_SIZE,
            ),
            batch_size=shape.batch_size,
            steps=steps,
            tokens=self._root / "tokens.npy",
            held_out=self._root / "held-out.npy",
            threads=threads,
            config=config,
        )
        return run_other(name, work, ranks)

    def _save_arrays(self, dataset: Dataset) -> None:
        length = self.shape.sequence_length
        train, held_out = dataset.train, dataset.validation
        sequences = train.read_sequences(np.arange(train.num_sequences(length)), length)
        np.save(self._root / "tokens.npy", sequences[:, :-1].flatten().astype(np.uint16))
        chosen = choose_sequences(held_out.num_sequences(length), HELD_OUT_SEQUENCES)
        np.save(self._root / "held-out.npy", held_out.read_sequences(chosen, length))

    def _configure(
        self, precision: Precision, *, steps: int, ranks: int, threads: int
    ) -> RunConfig:
        """Describe a run of its own, so that it does not resume the one before."""
        shape, self._count = self.shape, self._count + 1
        source = self._root / "bench-bucket" / "topics.txt"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text("\n".join(topics.values()), encoding="utf-8")
        return RunConfig.model_validate(
            {
                "namespace": "bench",
                "name": "training",
                "uid": f"00000000-{self._count:04}",
                "runUri": f"s3://bench-bucket/runs/training-{self._count}",
                "data": {
                    "sources": [{"uri": "s3://bench-bucket/topics.txt"}],
                    "tokenizer": {"kind": "byte"},
                    "split": {"method": "tail"},
                },
                "model": {
                    "layers": shape.layers,
                    "heads": shape.heads,
                    "hiddenSize": shape.hidden_size,
                },
                "training": {
                    "steps": steps,
                    "batchSize": shape.batch_size * ranks,
                    "sequenceLength": shape.sequence_length,
                    "precision": precision.value,
                    "optimizer": {"learningRate": LEARNING_RATE},
                },
                "evaluation": {"everySteps": steps, "maxSequences": HELD_OUT_SEQUENCES},
                "checkpoint": {"everySteps": steps},
                "strategy": "ddp",
                "replicas": 1,
                "processesPerWorker": ranks,
                "threadsPerProcess": threads,
                "storage": {"uri": "s3://bench-bucket", "localRoot": str(self._root)},
                "rendezvous": {"leaderHost": "127.0.0.1"},
            }
        )


def measure_speed(bench: Bench, rounds: int) -> dict[str, Any]:
    """Return tokens per second and memory of every contestant."""
    shape = bench.shape
    rates: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    peaks: dict[str, list[int]] = {name: [] for name in CONTESTANTS}
    loads = []
    for number in range(rounds):
        loads.append(os.getloadavg()[0])
        for name in rotate(CONTESTANTS, number):
            course = bench.run(name, steps=shape.warmup_steps + shape.timed_steps)
            rate = course.count_rate(shape.warmup_steps, shape.batch_size * shape.sequence_length)
            rates[name].append(rate)
            peaks[name].append(course.peak_bytes)
            click.echo(
                f"{shape.name} round {number} {name}: {rate:,.0f} tokens/s, "
                f"{course.peak_bytes / 2**20:,.0f} MiB"
            )
    return {
        "shape": asdict(shape),
        "loadBeforeRounds": loads,
        "tokensPerSecond": rates,
        "peakBytes": peaks,
        "speedToNanogpt": compare_medians(rates, NANOGPT),
        "speedToTrainer": compare_medians(rates, TRAINER),
        "memoryToNanogpt": compare_medians(peaks, NANOGPT),
        "auto": choose_arithmetic(
            Precision.AUTO, torch.device("cpu"), hidden_size=shape.hidden_size
        ).dump(),
    }


def measure_quality(bench: Bench, rounds: int) -> dict[str, Any]:
    """Return the loss on held-out text after the same steps, and how fast they went."""
    del rounds  # each of them is long, and the losses hardly vary
    shape, figures = bench.shape, {}
    for name in (NANOGPT, FP32, AUTO):
        course = bench.run(name, steps=shape.quality_steps)
        rate = course.count_rate(shape.warmup_steps, shape.batch_size * shape.sequence_length)
        figures[name] = {"heldOutLoss": course.held_out_loss, "tokensPerSecond": rate}
        click.echo(f"{shape.name} {name} after {shape.quality_steps} steps: {figures[name]}")
    return {"steps": shape.quality_steps, "load": os.getloadavg(), **figures}


def measure_ranks(bench: Bench, rounds: int) -> dict[str, Any]:
    """Return how much of twice the speed two ranks have, with a thread and a batch each."""
    shape = bench.shape
    efficiencies: dict[str, list[float]] = {NANOGPT: [], FP32: []}
    rates: dict[str, list[float]] = {}
    for number in range(rounds):
        for name in rotate((NANOGPT, FP32), number):
            pair = []
            for ranks in (1, 2):
                course = bench.run(
                    name, steps=shape.warmup_steps + shape.timed_steps, ranks=ranks, threads=1
                )
                tokens = shape.batch_size * shape.sequence_length * ranks
                pair.append(course.count_rate(shape.warmup_steps, tokens))
                rates.setdefault(f"{name}-{ranks}", []).append(pair[-1])
            efficiencies[name].append(pair[1] / (2 * pair[0]))
            click.echo(f"{shape.name} round {number} {name}: {efficiencies[name][-1]:.3f}")
    return {
        "tokensPerSecond": rates,
        "efficiency": efficiencies,
        "medianEfficiency": {n: statistics.median(each) for n, each in efficiencies.items()},
        "load": os.getloadavg(),
    }


def measure_loss(rounds: int, threads: int, shape: Shape) -> dict[str, Any]:
    """Return speed and memory of a training step with all logits and without."""
    model = ModelSpec(layers=shape.layers, heads=shape.heads, hidden_size=shape.hidden_size)
    sequences, sequence_length = 2 * shape.batch_size, shape.sequence_length
    settings = {"all": 1_048_576, "chunks": None}
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in settings}
    forecasts = {}
    size = compute_size(
        model, vocabulary_size=LARGE_VOCABULARY_SIZE, sequence_length=sequence_length
    )
    for number in range(rounds):
        for name in rotate(tuple(settings), number):
            training = TrainingSpec(
                steps=1,
                precision=Precision.FP32,
                sequence_length=sequence_length,
                logits_mebibytes=settings[name],
            )
            request = TrialRequest(
                model=model,
                training=training,
                vocabulary_size=LARGE_VOCABULARY_SIZE,
                sequences=sequences,
                threads=threads,
            )
            done = subprocess.run(
                [sys.executable, "-m", "llmtrain_trainer.training.trial"],
                input=request.model_dump_json(by_alias=True),
                capture_output=True,
                text=True,
                check=True,
            )
            result = TrialResult.model_validate_json(done.stdout)
            figures[name].append(result.model_dump(mode="json"))
            forecasts[name] = compute_rank_memory(
                model,
                size,
                RankWork(
                    sequences=sequences,
                    sequence_length=sequence_length,
                    vocabulary_size=LARGE_VOCABULARY_SIZE,
                    shards=1,
                    bf16=False,
                    fused_attention=False,
                    logits_bytes=training.find_logits_bytes(on_gpu=False),
                ),
            ).peak
            click.echo(
                f"round {number} {name}: {result.tokens_per_second:,.0f} tokens/s, "
                f"{result.peak_bytes / 2**20:,.0f} MiB, forecast {forecasts[name] / 2**20:,.0f}"
            )
    return {"raw": figures, "forecastBytes": forecasts, "load": os.getloadavg()}


def rotate(names: tuple[str, ...], number: int) -> tuple[str, ...]:
    """Return the names in the order of a round."""
    start = number % len(names)
    return names[start:] + names[:start]


def compare_medians(figures: dict[str, Any], reference: str) -> dict[str, float]:
    """Return the ratio of each median to that of `reference`."""
    medians = {name: statistics.median(values) for name, values in figures.items()}
    return {name: median / medians[reference] for name, median in medians.items()}


PARTS: dict[str, Callable[[Bench, int], dict[str, Any]]] = {
    "speed": measure_speed,
    "ranks": measure_ranks,
    "quality": measure_quality,
}


@click.command()
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--parts", default="speed,ranks,loss,quality", show_default=True)
@click.option("--tiny", is_flag=True, help="Only show that it runs.")
def main(output: Path, rounds: int, parts: str, tiny: bool) -> None:
    """Measure every shape and write raw figures and ratios to OUTPUT as JSON."""
    threads = count_usable_cores()
    results: dict[str, Any] = {
        "machine": {
            "processor": str(torch.cpu.get_capabilities().get("cpu_name", platform.processor())),
            "threads": threads,
            "torch": torch.__version__,
        }
    }
    shapes = (TINY,) if tiny else (SMALL, MIDDLE)
    with tempfile.TemporaryDirectory() as folder:
        benches = []
        for shape in shapes:
            root = Path(folder) / shape.name
            root.mkdir()
            benches.append(Bench(root, shape, threads))
        for part in parts.split(","):
            if part == "loss":
                results[part] = measure_loss(rounds, threads, shapes[-1])
            else:
                results[part] = {}
                for bench in benches:
                    results[part][bench.shape.name] = PARTS[part](bench, rounds)
            # As it goes on, so that a run that is ended has said something.
            output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
