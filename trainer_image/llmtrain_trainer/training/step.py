"""One optimizer step, and the numbers that all ranks learn of it.

Below: `order` and `divergence` (which sequences it takes), `dataset`, `objective` (what is
predicted of them), `model`, `learning_rate`, `optim`, `parallel`.
Above: `train`, which does one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import distributed

from llmtrain_trainer.model.losses import compute_loss_sum
from llmtrain_trainer.objective.batch import Batch, count_samples, read_batch
from llmtrain_trainer.parallel import Ranks
from llmtrain_trainer.spreading import skip_gradient_sync
from llmtrain_trainer.training.learning_rate import compute_learning_rate
from llmtrain_trainer.training.order import select_samples
from llmtrain_trainer.training.run import TrainingRun


@dataclass(frozen=True, slots=True, kw_only=True)
class StepNumbers:
    """The numbers of one step, on their way to being summed over the ranks."""

    step: int
    values: torch.Tensor
    """float64 [6 + ranks]: sum of losses, number of targets, tokens that were read, ranks that wish
    to stop, ranks whose save is on its way, whether rank 0 wishes to save; then each rank's own
    seconds of the step before."""

    work: distributed.Work | None
    gradient_norm: torch.Tensor
    learning_rate: float
    was_skipped: bool
    """Gradients were beyond float16, and no weight was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreed:
    """What all ranks know after a step."""

    loss: float
    """Nats per target, over all ranks."""
    tokens: float
    """That all ranks read."""
    gradient_norm: float
    stop: bool
    busy: bool
    save: bool
    own_seconds: tuple[float, ...]
    """Each rank's own time of the step before, see `stragglers`."""


def take_step(
    run: TrainingRun, step: int, wishes_to_stop: bool, *, learning_rate: float | None = None
) -> StepNumbers:
    """Do optimizer step `step` (counted from 1) and begin to sum its numbers.

    `learning_rate` takes the place of the schedule's, where it is given.
    """
    training = run.config.training
    ranks, device = run.ranks, run.ranks.device
    own_seconds = torch.zeros(ranks.group.world_size, dtype=torch.float64)
    own_seconds[ranks.group.rank] = run.clock.read_seconds()
    run.clock.begin()
    if run.config.model.dropout > 0 or run.config.model.pretrained is not None:
        _seed_dropout(training.seed, step, ranks.reader)
    share = training.global_batch // ranks.num_readers
    micro = min(training.micro_batch_size or share, share)
    batches = _make_batches(run, step, share, micro)
    fixed = run.objective.fixed_targets
    if fixed is None:
        # Only the batches know; their number is summed before any gradient is scaled by it.
        waiting = list(batches)
        batches = iter(waiting)
        own_targets = sum(int(batch.count_targets().sum()) for batch in waiting)
        num_targets = max(1.0, _count_over_ranks(ranks, own_targets))
    else:
        own_targets, num_targets = share * fixed, float(training.global_batch * fixed)
    # DDP and FSDP divide gradients by the number of ranks that read; this undoes it.
    scale = ranks.num_readers / num_targets

    own_tokens = 0
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    run.optimizer.clear_gradients()
    for start, batch in zip(range(0, share, micro), batches, strict=True):
        is_last = start + micro >= share
        own_tokens += _count_tokens(run, batch, min(micro, share - start))
        with nullcontext() if is_last else skip_gradient_sync(run.model):
            # Found before the batch moves: a GPU would have to be waited for.
            places = batch.locate_targets().to(device) if fixed is None else None
            loss = compute_loss_sum(
                run.model,
                batch.move(device),
                logits_bytes=run.logits_bytes,
                places=places,
                label_smoothing=training.label_smoothing,
            )
            if is_last:
                run.clock.reach_sync()
            run.optimizer.scale_loss(loss * scale).backward()
        loss_sum += loss.detach()
    gradient_norm = run.optimizer.compute_gradient_norm()
    if learning_rate is None:
        learning_rate = compute_learning_rate(
            step, training.optimizer, run.total_steps, peak=run.config.learning_rate
        )
    was_skipped = not run.optimizer.step(learning_rate, gradient_norm)

    wishes_to_save = ranks.is_first and run.schedule.is_time_due()
    if not ranks.is_counted:
        loss_sum, own_targets, own_tokens = torch.zeros_like(loss_sum), 0, 0
    flags = torch.tensor(
        [
            float(own_targets),
            float(own_tokens),
            float(wishes_to_stop),
            float(run.checkpointer.is_busy),
            float(wishes_to_save),
        ],
        dtype=torch.float64,
    )
    values = torch.cat([loss_sum[None], flags.to(device), own_seconds.to(device)])
    return StepNumbers(
        step=step,
        values=values,
        work=ranks.begin_sum(values),
        gradient_norm=gradient_norm,
        learning_rate=learning_rate,
        was_skipped=was_skipped,
    )


def read_numbers(run: TrainingRun, numbers: StepNumbers) -> Agreed:
    """Wait until the numbers of a step are summed over the ranks, and return them."""
    if numbers.work is not None:
        numbers.work.wait()
    loss_sum, targets, tokens, stops, saves, wishes, *own_seconds = numbers.values.tolist()
    return Agreed(
        loss=loss_sum / max(1.0, targets),
        tokens=tokens,
        gradient_norm=float(numbers.gradient_norm),
        stop=stops > 0,
        busy=saves > 0,
        save=wishes > 0,
        own_seconds=tuple(own_seconds),
    )


def _count_tokens(run: TrainingRun, batch: Batch, sequences: int) -> int:
    """Return the tokens of a pass: those of sequences, or of documents as long as they are."""
    if run.objective.reads_documents:
        return batch.count_tokens()
    return sequences * run.config.training.sequence_length


def _count_over_ranks(ranks: Ranks, own: int) -> float:
    """Return the sum of a number over the ranks; with one, no GPU is waited for."""
    if ranks.group.world_size == 1:
        return float(own)
    counted = float(own) if ranks.is_counted else 0.0
    return float(ranks.sum(torch.tensor(counted, dtype=torch.float64, device=ranks.device)))


def _make_batches(run: TrainingRun, step: int, share: int, micro: int) -> Iterator[Batch]:
    """Yield this rank's `share` of the step's samples, `micro` at a time."""
    training, reader = run.config.training, run.ranks.reader
    number = run.history.find_batch(step)
    samples = select_samples(
        number,
        training.global_batch,
        count_samples(run.objective, run.dataset.train, training.sequence_length),
        training.seed,
    )
    numbers = np.arange(number * training.global_batch, (number + 1) * training.global_batch)
    for start in range(reader * share, (reader + 1) * share, micro):
        part = slice(start, min(start + micro, (reader + 1) * share))
        with run.clock.reading():
            batch = read_batch(
                run.objective,
                run.dataset.train,
                samples[part],
                numbers[part],
                sequence_length=training.sequence_length,
                is_training=True,
            )
        yield batch


def _seed_dropout(seed: int, step: int, reader: int) -> None:
    """Begin the draws of a step: the same on all ranks of a group that computes one thing."""
    state = np.random.SeedSequence((seed, step, reader)).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]))
