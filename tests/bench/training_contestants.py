"""Who trains in `bench_training`: each contestant in a process of its own, forked warm.

`nanogpt` is the loop of `gpt_contestant`, `trainer` the Hugging Face Trainer with its GPT-2 as it
comes, `ours` the real training stage. Each says when it has done a step; the process that
measures reads from the outside how much memory it had by then.
"""

from __future__ import annotations

import multiprocessing
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt_contestant import BETAS, CLIP_NORM, LEARNING_RATE, WEIGHT_DECAY, Gpt, GptShape, train_gpt
from llmtrain_api.run import RunConfig
from llmtrain_trainer.training.learning_rate import compute_learning_rate
from testbed.ranks import RankLog, RunningRanks

NANOGPT, TRAINER = "nanogpt", "trainer"
KIBIBYTE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a contestant that is not ours trains."""

    shape: GptShape
    batch_size: int
    """Sequences of a step, of each rank."""

    steps: int
    tokens: Path
    """Of the training text, as `numpy.save` writes them."""

    held_out: Path | None
    """Sequences [n, context + 1] to measure the loss of at the end; None: it is not measured."""

    threads: int
    config: RunConfig
    """Of the same run of ours, for its schedule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How a run went."""

    step_times: dict[int, float]
    """When each step had been done, in seconds."""

    peak_bytes: int
    """Resident memory of the first rank, at most, from its start to its last but one step."""

    held_out_loss: float | None
    """Nats for each token; None: not measured."""

    def count_rate(self, first: int, tokens_per_step: int) -> float:
        """Return the tokens per second of the steps after step `first`."""
        last = max(self.step_times)
        seconds = self.step_times[last] - self.step_times[first]
        return (last - first) * tokens_per_step / seconds


def _has_passed(log: RankLog, step: int) -> bool:
    return log.step > step


def run_ours(config: RunConfig) -> Course:
    """Train by the real stage until its end."""
    ranks = RunningRanks(config)
    # The last step is followed by an evaluation, a save and an export, which are not compared.
    steps = config.training.count_steps()
    assert steps is not None
    last = steps - 1
    log = ranks.logs[0]
    while log.step < last:
        # `watch` has patience for a step, and not for all of them.
        ranks.watch(partial(_has_passed, log, log.step))
    peak = read_peak(ranks.find_pid(0))
    ranks.finish()
    # A step is reported while the next one is under way, so all are equally late.
    times = {u.step: u.sent_at for u in log.updates if "loss" in u.facts and u.step <= last}
    return Course(
        step_times=times,
        peak_bytes=peak,
        held_out_loss=log.list_facts("validation_loss")[-1],
    )


def run_other(name: str, work: Work, num_ranks: int = 1) -> Course:
    """Train by another contestant; with several ranks by plain DDP."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["llmtrain_trainer.train"])
    meeting = work.tokens.with_name(f"meeting-{time.time_ns()}")
    lines, processes = [], []
    for rank in range(num_ranks):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=_be_contestant, args=(name, work, rank, num_ranks, meeting, theirs), daemon=True
        )
        process.start()
        theirs.close()
        lines.append(ours)
        processes.append(process)
    times: dict[int, float] = {}
    peak, loss = 0, None
    while True:
        try:
            message = lines[0].recv()
        except EOFError:
            break
        if isinstance(message, float):
            loss = message
            continue
        step, times[step] = message
        if step == work.steps - 1:
            pid = processes[0].pid
            assert pid is not None
            peak = read_peak(pid)
    for process in processes:
        process.join()
        if process.exitcode != 0:
            raise RuntimeError(f"{name} ended with {process.exitcode}")
    return Course(step_times=times, peak_bytes=peak, held_out_loss=loss)


def read_peak(pid: int) -> int:
    """Return the most memory that a process has had resident, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    kibibytes = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    assert kibibytes is not None
    return int(kibibytes[1]) * KIBIBYTE


def _be_contestant(
    name: str, work: Work, rank: int, num_ranks: int, meeting: Path, line: Connection
) -> None:
    import torch

    torch.set_num_threads(work.threads)
    torch.manual_seed(0)
    if num_ranks > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=num_ranks
        )
    tokens: NDArray[np.uint16] = np.load(work.tokens, mmap_mode="r")

    def tell(step: int) -> None:
        line.send((step, time.time()))

    train = {NANOGPT: _train_nanogpt, TRAINER: _train_trainer}[name]
    compute_loss = train(work, tokens, tell, num_ranks)
    if work.held_out is not None:
        sequences = torch.from_numpy(np.load(work.held_out))
        with torch.no_grad():
            losses = [compute_loss(part) for part in sequences.split(work.batch_size)]
        line.send(float(np.mean(losses)))
    if num_ranks > 1:
        torch.distributed.destroy_process_group()


def _train_nanogpt(
    work: Work, tokens: NDArray[np.uint16], tell: Callable[[int], None], num_ranks: int
) -> Callable[[Any], float]:
    from torch.nn.parallel import DistributedDataParallel

    gpt = Gpt(work.shape)
    training = work.config.training
    train_gpt(
        DistributedDataParallel(gpt) if num_ranks > 1 else gpt,
        tokens,
        steps=work.steps,
        batch_size=work.batch_size,
        context=work.shape.context,
        on_step=tell,
        schedule=lambda step: compute_learning_rate(
            step, training.optimizer, work.steps, peak=LEARNING_RATE
        ),
    )
    return lambda part: float(gpt(part[:, :-1], part[:, 1:]))


def _train_trainer(
    work: Work, tokens: NDArray[np.uint16], tell: Callable[[int], None], num_ranks: int
) -> Callable[[Any], float]:
    import torch
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    assert num_ranks == 1
    context, count = work.shape.context, work.steps * work.batch_size
    starts = np.random.default_rng(0).integers(len(tokens) - context - 1, size=count)

    class Windows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        """Random places of the text."""

        def __len__(self) -> int:
            return count

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            start = starts[index]
            ids = torch.from_numpy(tokens[start : start + context].astype(np.int64))
            return {"input_ids": ids, "labels": ids}

    class Listener(TrainerCallback):
        """Hears of each step."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            tell(state.global_step)

    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=work.shape.vocabulary_size,
            n_positions=context,
            n_embd=work.shape.hidden_size,
            n_layer=work.shape.layers,
            n_head=work.shape.heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )
    arguments = TrainingArguments(
        output_dir=str(work.tokens.parent / "trainer"),
        use_cpu=True,
        max_steps=work.steps,
        per_device_train_batch_size=work.batch_size,
        learning_rate=LEARNING_RATE,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=CLIP_NORM,
        lr_scheduler_type="cosine",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    Trainer(model=model, args=arguments, train_dataset=Windows(), callbacks=[Listener()]).train()
    model.eval()
    return lambda part: float(
        torch.nn.functional.cross_entropy(
            model(input_ids=part[:, :-1]).logits.flatten(0, 1), part[:, 1:].flatten()
        )
    )
