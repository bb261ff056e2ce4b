"""Losses that run away: noticed by a robust rule, answered by going back and skipping batches.

Below: `verification` (which checkpoints there are), `retention` (refusing some), the run's store.
Above: `train` lets a `LossWatch` hear every loss, and calls `roll_back` where the policy is to.

A spike is a loss that stays above the running median by many median absolute deviations. The
answer is PaLM's (Chowdhery et al. 2022, section 5.1): go back to a checkpoint from before the
spike and skip the batches seen since, some hundreds there. It had worked because spikes come from
a batch meeting a state: the same batches later did no harm. That several steps in a row must be
above is llm-foundry's rule (KillLossSpike), which compares with twice the running mean.

What is skipped is recorded in the run's store before training goes on, and which batch a step
takes is a function of the step and that record alone: every resumed run takes the same.
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import Field

from llmtrain_api.base import Model
from llmtrain_api.training import DivergenceSpec
from llmtrain_trainer.checkpoint.retention import refuse_checkpoint
from llmtrain_trainer.checkpoint.verification import list_steps
from llmtrain_trainer.failures import DivergedError
from llmtrain_trainer.store import ObjectMissingError, Store
from llmtrain_trainer.training.curve import WHOLE_STEPS

HISTORY = "divergence.json"
"""What was skipped, relative to the run."""

WINDOW_STEPS = WHOLE_STEPS
"""Losses that the median is taken of: those that a checkpoint's curve has every one of."""
MIN_WINDOW_STEPS = 24
"""Spikes are looked for once there are so many."""
MAD_TO_SIGMA = 1.4826
"""The median absolute deviation of a normal distribution, times this, is its deviation."""
MIN_RISE = 0.1
"""A spike is at least this share above the median: losses of a small model hardly vary."""

LOSS_SPIKE = "LossSpike"

ADVICE = "lower training.optimizer.learningRate, or lengthen warmupSteps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """A loss that ran away."""

    first_step: int
    """The first step whose numbers were bad."""

    step: int
    """The step at which that was certain."""

    message: str
    reason: str


class LossWatch:
    """Hears every loss in order, and tells when it has run away."""

    def __init__(self, spec: DivergenceSpec, past: Iterable[float] = ()) -> None:
        """Begin with `past` losses, oldest first, as the loss curve of a resumed run has them."""
        self._spec = spec
        self._window: deque[float] = deque(past, maxlen=WINDOW_STEPS)
        self._sorted = sorted(self._window)
        self._above: list[tuple[int, float]] = []
        self._in_spike = False
        self.spikes = 0
        """Spikes heard of."""

    @property
    def is_suspicious(self) -> bool:
        """Whether the newest losses may turn out to be a spike."""
        return bool(self._above)

    def hear(self, step: int, loss: float, gradient_norm: float) -> Divergence | None:
        """Take in a step's numbers; return what is wrong, once that is certain."""
        for name, value in (("loss", loss), ("gradient norm", gradient_norm)):
            if not math.isfinite(value):
                return Divergence(
                    first_step=step,
                    step=step,
                    message=f"the {name} of step {step} is {value}",
                    reason="LossNotFinite",
                )
        if not self._is_high(loss) or self._in_spike:
            self._in_spike = self._in_spike and self._is_high(loss)
            for _, value in self._above:
                self._remember(value)
            self._above.clear()
            self._remember(loss)
            return None
        self._above.append((step, loss))
        return self.conclude() if len(self._above) >= self._spec.spike_steps else None

    def conclude(self) -> Divergence | None:
        """Take losses that look like a spike for one; return it."""
        limit = self.find_limit()
        if not self._above or limit is None:
            return None
        median = self._find_median()
        (first_step, _), (step, loss) = self._above[0], self._above[-1]
        self.spikes += 1
        self._in_spike = True
        for _, value in self._above:
            self._remember(value)
        self._above.clear()
        return Divergence(
            first_step=first_step,
            step=step,
            message=f"from step {first_step} to {step} the loss was above {limit:.4g} (the median "
            f"is {median:.4g}); at last {loss:.4g}",
            reason=LOSS_SPIKE,
        )

    def find_limit(self) -> float | None:
        """Return the loss that is too high, or None while too few were heard."""
        if len(self._window) < MIN_WINDOW_STEPS:
            return None
        median = self._find_median()
        deviation = MAD_TO_SIGMA * statistics.median(abs(loss - median) for loss in self._window)
        return median + max(self._spec.spike_deviations * deviation, MIN_RISE * median)

    def _is_high(self, loss: float) -> bool:
        if len(self._window) < MIN_WINDOW_STEPS or loss <= (1 + MIN_RISE) * self._find_median():
            return False  # as nearly every loss: the deviations need not be looked at
        limit = self.find_limit()
        return limit is not None and loss > limit

    def _find_median(self) -> float:
        middle = len(self._sorted) // 2
        if len(self._sorted) % 2:
            return self._sorted[middle]
        return (self._sorted[middle - 1] + self._sorted[middle]) / 2

    def _remember(self, loss: float) -> None:
        if len(self._window) == WINDOW_STEPS:
            del self._sorted[bisect.bisect_left(self._sorted, self._window[0])]
        self._window.append(loss)
        bisect.insort(self._sorted, loss)


class Rollback(Model):
    """One return to a checkpoint."""

    step: int = Field(ge=0)
    """Step of the checkpoint that training went on from; 0: from scratch."""

    detected_step: int = Field(ge=1)
    """Step at which the divergence was certain."""

    first_batch: int = Field(ge=0)
    """First batch that is skipped, counted from 0."""

    last_batch: int = Field(ge=0)
    """Last batch that is skipped."""

    message: str
    """What had happened."""

    def describe(self) -> str:
        """Say what happened, and what was done."""
        start = f"the checkpoint of step {self.step}" if self.step else "the start"
        return (
            f"{self.message}; training went on from {start} without batches {self.first_batch} to "
            f"{self.last_batch}"
        )


class RollbackHistory(Model):
    """All returns of a run, and so the batches that it never takes (again)."""

    rollbacks: Sequence[Rollback] = ()

    def count_skipped(self) -> int:
        """Return the number of batches that are skipped."""
        return sum(last - first + 1 for first, last in self._merge_ranges())

    def find_batch(self, step: int) -> int:
        """Return the batch (from 0) that optimizer step `step` (from 1) takes.

        It is the one that comes `step`-th where those that are skipped are left out.
        """
        batch = step - 1
        for first, last in self._merge_ranges():
            if batch < first:
                break
            batch += last - first + 1
        return batch

    def add(self, divergence: Divergence, step: int) -> RollbackHistory:
        """Return the history with a return to the checkpoint of `step` added."""
        rollback = Rollback(
            step=step,
            detected_step=divergence.step,
            first_batch=self.find_batch(step) + 1 if step > 0 else 0,
            last_batch=self.find_batch(divergence.step),
            message=divergence.message,
        )
        return RollbackHistory(rollbacks=[*self.rollbacks, rollback])

    def _merge_ranges(self) -> list[tuple[int, int]]:
        """Return the ranges that are skipped, in order and without overlap."""
        merged: list[tuple[int, int]] = []
        for first, last in sorted((r.first_batch, r.last_batch) for r in self.rollbacks):
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
            else:
                merged.append((first, last))
        return merged


def read_history(store: Store) -> RollbackHistory:
    """Return what the run has skipped so far."""
    try:
        return RollbackHistory.model_validate_json(store.read_bytes(HISTORY))
    except ObjectMissingError:
        return RollbackHistory()


def roll_back(
    store: Store, history: RollbackHistory, divergence: Divergence, spec: DivergenceSpec
) -> RollbackHistory:
    """Make the store such that the next round goes on from before a divergence.

    On rank 0, and while no save is on its way. The history is written first: a run that is killed
    before the later checkpoints are refused goes on from one of these, and still skips.

    Raises:
        DivergedError: the run has been rolled back too often.
    """
    if len(history.rollbacks) >= spec.max_rollbacks:
        raise DivergedError(
            f"{divergence.message}, after {len(history.rollbacks)} rollbacks "
            f"(training.divergence.maxRollbacks is {spec.max_rollbacks})",
            reason="RollbackLimitReached",
            next_step=ADVICE,
        )
    steps = list_steps(store)
    target = choose_checkpoint(steps, divergence.first_step, spec.spike_steps)
    history = history.add(divergence, target)
    store.write_bytes(HISTORY, history.model_dump_json(by_alias=True).encode())
    for step in steps:
        if step > target:
            refuse_checkpoint(store, step, divergence.message)
    return history


def choose_checkpoint(steps: Sequence[int], first_bad_step: int, margin: int) -> int:
    """Return the step to go back to; 0 is from scratch.

    The damage was done by some step before the first one that shows it, so a checkpoint from right
    before is taken only where there is no older one.
    """
    ascending = sorted(step for step in steps if step < first_bad_step)
    if not ascending:
        return 0
    position = bisect.bisect_left(ascending, first_bad_step - margin)
    return ascending[max(0, position - 1)]
