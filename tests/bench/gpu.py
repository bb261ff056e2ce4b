"""Training on one GPU: ours beside a loop written by hand and the Hugging Face Trainer, in one run.

    PYTHONPATH=tests/cluster python tests/bench/gpu.py --output gpu.json

Two models in bfloat16: GPT-2 of 124 million parameters at 1,024 tokens, a Llama of 1.1 billion at
2,048. Of each contestant, a process of its own: tokens per second, the share of the device's peak
(operations for each token as `llmtrain plan` counts them, over NVIDIA's dense bfloat16 figure),
peak memory, and of ours how long steps wait for data and how long a checkpoint stops them.

- `loop`: the loop of `gpt_contestant`, for Llama with the model of `transformers`; `compiled`: the
  same by torch.compile.
- `trainer`: the Hugging Face Trainer with `bf16: true`.
- `ours`: the real training stage.

`--tiny` shows on any machine that it runs, with models whose figures say nothing.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bench_data import gather_texts
from gpt_contestant import BETAS, CLIP_NORM, LEARNING_RATE, WEIGHT_DECAY, Gpt, GptShape, train_gpt
from llmtrain_api.devices import find_device
from llmtrain_api.network import Architecture, ModelSpec
from llmtrain_api.run import RunConfig
from llmtrain_operator.forecast.size import compute_size
from llmtrain_trainer.dataset.loading import Dataset, open_run_dataset
from llmtrain_trainer.model.network import build_model
from llmtrain_trainer.objective.batch import read_batch
from llmtrain_trainer.prepare import run_prepare
from llmtrain_trainer.progress import RankUpdate, Reporter
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.store import open_store
from llmtrain_trainer.training import step as training_step
from training_contestants import read_peak

LOOP, COMPILED, TRAINER, OURS = "loop", "compiled", "trainer", "ours"
CONTESTANTS = (LOOP, COMPILED, TRAINER, OURS)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A model and its batches."""

    name: str
    model: ModelSpec
    vocabulary_size: int
    """Wanted of a BPE tokenizer; 0: bytes."""

    text_characters: int
    """Of the documentation that is trained on."""

    sequence_length: int
    batch_size: int
    micro_batch_size: int
    warmup_steps: int
    timed_steps: int

    @property
    def last(self) -> int:
        """The last step that is timed."""
        return self.warmup_steps + self.timed_steps


TASKS = (
    Task(
        name="gpt2-124M",
        model=ModelSpec(layers=12, heads=12, hidden_size=768),
        vocabulary_size=50_257,
        text_characters=60_000_000,
        sequence_length=1024,
        batch_size=32,
        micro_batch_size=32,
        warmup_steps=10,
        timed_steps=30,
    ),
    Task(
        name="llama-1.1B",
        model=ModelSpec(
            architecture=Architecture.LLAMA,
            layers=22,
            heads=32,
            key_value_heads=4,
            hidden_size=2048,
        ),
        vocabulary_size=32_000,
        text_characters=60_000_000,
        sequence_length=2048,
        batch_size=8,
        micro_batch_size=8,
        warmup_steps=5,
        timed_steps=15,
    ),
)
TINY_TASKS = tuple(
    Task(
        name=f"tiny-{architecture}",
        model=ModelSpec(architecture=architecture, layers=1, heads=2, hidden_size=32),
        vocabulary_size=0,
        text_characters=200_000,
        sequence_length=32,
        batch_size=4,
        micro_batch_size=2 if architecture is Architecture.LLAMA else 4,
        warmup_steps=1,
        timed_steps=3,
    )
    for architecture in (Architecture.GPT2, Architecture.LLAMA)
)


class HandWritten(nn.Module):
    """A network of `transformers` that gives the mean loss, as `train_gpt` wants it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = self.network(input_ids=ids, use_cache=False).logits
        return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


@click.command()
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--rounds", default=2, show_default=True)
@click.option("--tiny", is_flag=True, help="Only show that it runs.")
@click.option("--contestant", "names", multiple=True, type=click.Choice(CONTESTANTS))
def main(output: Path, rounds: int, tiny: bool, names: tuple[str, ...]) -> None:
    """Measure, and write raw figures and ratios to OUTPUT as JSON."""
    contestants = names or CONTESTANTS
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else None
    results: dict[str, Any] = {"device": device, "torch": torch.__version__, "tasks": {}}
    with tempfile.TemporaryDirectory() as folder:
        for task in TINY_TASKS if tiny else TASKS:
            root = Path(folder) / task.name
            prepared = prepare(root, task)
            raw: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
            for number in range(rounds):
                for name in contestants[number % len(contestants) :] + contestants[:number]:
                    figures = run_apart(name, task, root, prepared.vocabulary_size)
                    raw[name].append(figures)
                    click.echo(f"{task.name} round {number} {name}: {figures}")
            results["tasks"][task.name] = summarize(task, raw, device, prepared.vocabulary_size)
            output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def summarize(
    task: Task, raw: dict[str, list[dict[str, Any]]], device: str | None, vocabulary_size: int
) -> dict[str, Any]:
    """Return the raw figures with medians, and shares of the device's peak where it is known."""
    size = compute_size(
        task.model, vocabulary_size=vocabulary_size, sequence_length=task.sequence_length
    )
    known = None if device is None else find_device(device.replace(" ", "-"))
    rates = {
        name: statistics.median(each["tokensPerSecond"] for each in figures)
        for name, figures in raw.items()
    }
    return {
        "parameters": size.parameters,
        "flopsPerToken": size.flops_per_token,
        "vocabulary": vocabulary_size,
        "tokensPerSecond": rates,
        "utilization": None
        if known is None
        else {n: rate * size.flops_per_token / known.bf16_flops for n, rate in rates.items()},
        "raw": raw,
    }


def prepare(root: Path, task: Task) -> Dataset:
    """Prepare the text, and leave its tokens for those that are not ours."""
    source = root / "bench-bucket" / "docs.txt"
    source.parent.mkdir(parents=True)
    source.write_text("\n".join(gather_texts(task.text_characters)), encoding="utf-8")
    config = configure(root, task, "prepared")
    run_prepare(config, Reporter(0, lambda update: None))
    dataset = open_run_dataset(open_store(config.run_uri, config.storage), config)
    length = task.sequence_length
    indices = np.arange(dataset.train.num_sequences(length))
    sequences = dataset.train.read_sequences(indices, length)
    np.save(root / "tokens.npy", sequences[:, :-1].flatten().astype(np.uint16))
    return dataset


def configure(root: Path, task: Task, run: str) -> RunConfig:
    """Describe a run whose one save is after the steps that are timed."""
    tokenizer: dict[str, Any] = {"kind": "byte"}
    if task.vocabulary_size:
        tokenizer = {"kind": "bpe", "vocabularySize": task.vocabulary_size}
    return RunConfig.model_validate(
        {
            "namespace": "bench",
            "name": "gpu",
            "uid": "00000000-0000",
            "runUri": f"s3://bench-bucket/runs/{run}",
            "data": {
                "sources": [{"uri": "s3://bench-bucket/docs.txt"}],
                "tokenizer": tokenizer,
                "split": {"method": "tail"},
            },
            "model": task.model.model_dump(mode="json", by_alias=True, exclude_none=True),
            "training": {
                "steps": task.last + 2,
                "batchSize": task.batch_size,
                "microBatchSize": task.micro_batch_size,
                "sequenceLength": task.sequence_length,
                "precision": "bf16",
                "optimizer": {"learningRate": LEARNING_RATE},
            },
            "evaluation": {"everySteps": task.last + 2, "maxSequences": 1},
            "checkpoint": {"everySteps": task.last + 1},
            "strategy": "ddp",
            "replicas": 1,
            "processesPerWorker": 1,
            "storage": {"uri": "s3://bench-bucket", "localRoot": str(root)},
            "rendezvous": {"leaderHost": "127.0.0.1"},
        }
    )


def run_apart(name: str, task: Task, root: Path, vocabulary_size: int) -> dict[str, Any]:
    """Train by a contestant in a process of its own, and return its figures."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=be_apart, args=(name, task, root, vocabulary_size, theirs))
    process.start()
    theirs.close()
    figures: dict[str, Any] = ours.recv()
    process.join()
    return figures


def be_apart(name: str, task: Task, root: Path, vocabulary_size: int, line: Connection) -> None:
    """Be a contestant, and say how it went."""
    train = {LOOP: train_loop, COMPILED: train_loop, TRAINER: train_trainer, OURS: train_ours}
    times: dict[int, float] = {}

    def tell(step: int) -> None:
        if step in (task.warmup_steps, task.last):
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()
            times[step] = time.perf_counter()

    further = train[name](name, task, root, vocabulary_size, tell)
    tokens = task.timed_steps * task.batch_size * task.sequence_length
    memory = read_peak(os.getpid())
    if DEVICE.type == "cuda":
        memory = torch.cuda.max_memory_allocated()
    rate = tokens / (times[task.last] - times[task.warmup_steps])
    line.send({"tokensPerSecond": rate, "peakBytes": memory, **further})


def train_loop(
    name: str, task: Task, root: Path, vocabulary_size: int, tell: Callable[[int], None]
) -> dict[str, Any]:
    """Train by hand; batches are not divided."""
    model = task.model
    network: nn.Module
    if model.architecture is Architecture.GPT2:
        shape = model.resolve()
        network = Gpt(
            GptShape(
                layers=shape.layers,
                heads=shape.heads,
                hidden_size=shape.hidden_size,
                context=task.sequence_length,
                vocabulary_size=vocabulary_size,
            )
        )
    else:
        network = HandWritten(build(task, vocabulary_size))
    network.to(DEVICE)
    if name == COMPILED:
        network.compile()
    train_gpt(
        network,
        np.load(root / "tokens.npy", mmap_mode="r"),
        steps=task.last,
        batch_size=task.batch_size,
        context=task.sequence_length,
        on_step=tell,
        dtype=torch.bfloat16,
    )
    return {}


def train_trainer(
    name: str, task: Task, root: Path, vocabulary_size: int, tell: Callable[[int], None]
) -> dict[str, Any]:
    """Train by the Hugging Face Trainer."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    del name
    tokens = np.load(root / "tokens.npy", mmap_mode="r")
    length, count = task.sequence_length, task.last * task.batch_size

    class Windows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        """Places of the text, one after the other."""

        def __len__(self) -> int:
            return count

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            start = index * length % (len(tokens) - length)
            ids = torch.from_numpy(tokens[start : start + length].astype(np.int64))
            return {"input_ids": ids, "labels": ids}

    class Listener(TrainerCallback):
        """Hears of each step."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            tell(state.global_step)

    arguments = TrainingArguments(
        output_dir=str(root / "trainer"),
        use_cpu=DEVICE.type == "cpu",
        bf16=True,
        max_steps=task.last,
        per_device_train_batch_size=task.micro_batch_size,
        gradient_accumulation_steps=task.batch_size // task.micro_batch_size,
        learning_rate=LEARNING_RATE,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=CLIP_NORM,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    Trainer(
        model=build(task, vocabulary_size),
        args=arguments,
        train_dataset=Windows(),
        callbacks=[Listener()],
    ).train()
    return {}


def train_ours(
    name: str, task: Task, root: Path, vocabulary_size: int, tell: Callable[[int], None]
) -> dict[str, Any]:
    """Train by the real stage, and return what it waited for."""
    del vocabulary_size
    config = configure(root, task, f"{name}-{time.time_ns()}")
    prepared = configure(root, task, "prepared")
    data = open_store(prepared.run_uri, config.storage).read_bytes("dataset.json")
    open_store(config.run_uri, config.storage).write_bytes("dataset.json", data)
    waits: list[float] = []

    def read_and_time(*arguments: Any, **settings: Any) -> Any:
        began = time.perf_counter()
        batch = read_batch(*arguments, **settings)
        waits.append(time.perf_counter() - began)
        return batch

    vars(training_step)["read_batch"] = read_and_time
    stalls: list[float] = []

    def hear(update: RankUpdate) -> None:
        if "loss" in update.facts:
            tell(update.step)
        if "checkpoint_stall_seconds" in update.facts:
            stalls.append(float(update.facts["checkpoint_stall_seconds"]))

    from llmtrain_trainer.train import run_train

    with tempfile.TemporaryDirectory(prefix="llmtrain-staging-") as staging:
        run_train(config, RankGroup(staging=(staging,)), Reporter(0, hear), lambda: False)
    passes = task.batch_size // task.micro_batch_size
    first = task.warmup_steps * passes
    return {
        "dataWaitSecondsPerStep": sum(waits[first : task.last * passes]) / task.timed_steps,
        "checkpointStallSeconds": stalls,
    }


def build(task: Task, vocabulary_size: int) -> Any:
    """Return the network of `transformers` that ours trains, too."""
    return build_model(
        task.model,
        vocabulary_size=vocabulary_size,
        sequence_length=task.sequence_length,
        end_of_text=0,
        seed=0,
    )


if __name__ == "__main__":
    main()
