"""What the training stage costs: its real loop beside a minimal PyTorch loop of the same model.

    python tests/bench/bench_training.py --output training.json

Each shape is measured in rounds; in a round every contestant trains the same model for the same
number of steps, one after the other in this process, so that what else the machine does falls
on all of them. A contestant's time is that of the steps after its first few. The summary is the
median over rounds; the raw figures are in the output.

- `plain`: the loop that one would write by hand; fp32, fused AdamW, clipping.
- `fp32`, `auto`: `run_train` with that precision, checkpoint and export included but not timed.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import statistics
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import click
import numpy as np
import torch
from torch.nn import functional

from llmtrain_api.network import ModelSpec
from llmtrain_api.run import RunConfig
from llmtrain_api.training import Precision
from llmtrain_trainer.dataset.loading import Dataset, open_run_dataset
from llmtrain_trainer.linux import count_usable_cores
from llmtrain_trainer.model.network import build_model
from llmtrain_trainer.precision import choose_arithmetic
from llmtrain_trainer.prepare import run_prepare
from llmtrain_trainer.progress import RankUpdate, Reporter
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.store import open_store
from llmtrain_trainer.train import run_train

PLAIN = "plain"
CONTESTANTS = (PLAIN, Precision.FP32.value, Precision.AUTO.value)


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

    @property
    def name(self) -> str:
        return f"{self.layers}x{self.hidden_size}-T{self.sequence_length}-B{self.batch_size}"

    @property
    def steps(self) -> int:
        return self.warmup_steps + self.timed_steps


SHAPES = (
    Shape(
        layers=4,
        hidden_size=128,
        heads=4,
        sequence_length=64,
        batch_size=12,
        warmup_steps=10,
        timed_steps=100,
    ),
    Shape(
        layers=6,
        hidden_size=384,
        heads=6,
        sequence_length=256,
        batch_size=8,
        warmup_steps=2,
        timed_steps=8,
    ),
)


@click.command()
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--rounds", default=3, show_default=True)
def main(output: Path, rounds: int) -> None:
    """Measure every shape and write raw figures and ratios to OUTPUT as JSON."""
    threads = count_usable_cores()
    torch.set_num_threads(threads)
    results: dict[str, dict[str, Any]] = {}
    for shape in SHAPES:
        rates: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
        with tempfile.TemporaryDirectory() as root:
            dataset = prepare_dataset(configure(Path(root), shape, Precision.FP32, threads))
            for number in range(rounds):
                for name in CONTESTANTS:
                    if name == PLAIN:
                        rate = measure_plain(shape, dataset)
                    else:
                        # A run of its own each time: it must not resume the one before.
                        config = configure(Path(root), shape, Precision(name), threads)
                        uri = f"{config.run_uri}-{name}-{number}"
                        rate = measure_stage(copy_run(config, uri), shape)
                    rates[name].append(rate)
                    click.echo(f"{shape.name} round {number} {name}: {rate:,.0f} tokens/s")
        medians = {name: statistics.median(values) for name, values in rates.items()}
        results[shape.name] = {
            "shape": asdict(shape),
            "tokensPerSecond": rates,
            "ratioToPlain": {name: medians[name] / medians[PLAIN] for name in CONTESTANTS},
        }
        results[shape.name]["auto"] = choose_arithmetic(
            Precision.AUTO, torch.device("cpu"), hidden_size=shape.hidden_size
        ).dump()
        click.echo(f"{shape.name}: {results[shape.name]['ratioToPlain']}")
    machine = {
        "processor": str(torch.cpu.get_capabilities().get("cpu_name", platform.processor())),
        "threads": threads,
        "torch": torch.__version__,
    }
    output.write_text(json.dumps({"machine": machine, "results": results}, indent=1))


def configure(root: Path, shape: Shape, precision: Precision, threads: int) -> RunConfig:
    """Describe a run of `shape` on the text of Python's own documentation, in a folder."""
    source = root / "bench-bucket" / "topics.txt"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text("\n".join(topics.values()), encoding="utf-8")
    return RunConfig.model_validate(
        {
            "namespace": "bench",
            "name": "training",
            "uid": "00000000-0000",
            "runUri": "s3://bench-bucket/runs/training",
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
                "steps": shape.steps,
                "batchSize": shape.batch_size,
                "sequenceLength": shape.sequence_length,
                "precision": precision.value,
            },
            "evaluation": {"everySteps": shape.steps, "maxSequences": 1},
            "checkpoint": {"everySteps": shape.steps},
            "strategy": "ddp",
            "replicas": 1,
            "processesPerWorker": 1,
            "threadsPerProcess": threads,
            "storage": {"uri": "s3://bench-bucket", "localRoot": str(root)},
            "rendezvous": {"leaderHost": "127.0.0.1"},
        }
    )


def copy_run(config: RunConfig, run_uri: str) -> RunConfig:
    """Return the same run at another place, on the same prepared data."""
    copy = config.model_copy(update={"run_uri": run_uri})
    data = open_store(config.run_uri, config.storage).read_bytes("dataset.json")
    open_store(run_uri, config.storage).write_bytes("dataset.json", data)
    return copy


def prepare_dataset(config: RunConfig) -> Dataset:
    """Prepare the run's data and open it."""
    run_prepare(config, Reporter(0, lambda update: None))
    return open_run_dataset(open_store(config.run_uri, config.storage), config)


def measure_stage(config: RunConfig, shape: Shape) -> float:
    """Return the tokens per second of the real stage, which reports through a real pipe."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    times: dict[int, float] = {}

    def drain() -> None:
        while isinstance(update := reader.recv(), RankUpdate):
            if "loss" in update.facts:
                times[update.step] = update.sent_at

    thread = threading.Thread(target=drain)
    thread.start()
    run_train(config, RankGroup(), Reporter(0, writer.send, time.perf_counter), lambda: False)
    writer.send(None)
    thread.join()
    # A step is reported while the next one is under way, so both ends are equally late.
    seconds = times[shape.steps - 1] - times[shape.warmup_steps]
    tokens = (shape.steps - 1 - shape.warmup_steps) * shape.batch_size * shape.sequence_length
    return tokens / seconds


def measure_plain(shape: Shape, dataset: Dataset) -> float:
    """Return the tokens per second of the loop that one would write by hand."""
    config = configure_model(shape)
    model = build_model(
        config,
        vocabulary_size=dataset.vocabulary_size,
        sequence_length=shape.sequence_length,
        end_of_text=dataset.end_of_text,
        seed=0,
    )
    model.train()
    torch.set_float32_matmul_precision("highest")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    random = np.random.default_rng(0)
    num_sequences = dataset.train.num_sequences(shape.sequence_length)
    start = 0.0
    for step in range(shape.steps):
        if step == shape.warmup_steps:
            start = time.perf_counter()
        indices = random.integers(num_sequences, size=shape.batch_size)
        sequences = torch.from_numpy(dataset.train.read_sequences(indices, shape.sequence_length))
        logits = model(input_ids=sequences[:, :-1], use_cache=False).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), sequences[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    seconds = time.perf_counter() - start
    return shape.timed_steps * shape.batch_size * shape.sequence_length / seconds


def configure_model(shape: Shape) -> ModelSpec:
    """Return the model of `shape` as a manifest would say it."""
    return ModelSpec(layers=shape.layers, heads=shape.heads, hidden_size=shape.hidden_size)


if __name__ == "__main__":
    main()
