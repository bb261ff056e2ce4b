"""Which learning rate to take: a few steps at ever higher ones, until the loss runs away.

Below: `run`, `step`. Above: `inspection.learning_rate`, for `llmtrain learning-rate`.

The range test of Smith 2017 (Cyclical Learning Rates for Training Neural Networks,
arXiv:1506.01186, section 3.3), with rates in equal ratios, as fast.ai's `lr_find` has them (Howard
and Gugger 2020, fastai: A Layered API for Deep Learning, arXiv:2002.04688). Its two suggestions are
computed: a tenth of the rate at which the smoothed loss is lowest, and the rate at which it falls
fastest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from llmtrain_trainer.failures import DivergedError
from llmtrain_trainer.training.run import TrainingRun
from llmtrain_trainer.training.step import read_numbers, take_step

FIRST_RATE, LAST_RATE = 1e-6, 10.0

SMOOTHING = 0.9
"""Share of the known loss that stays when another step is heard."""

HOPELESS = 1.1
"""Times the loss of the beginning: a rate at which it is higher teaches nothing any more."""

SAFETY = 10.0
"""The rate of the lowest loss is on the edge of where it rises; a tenth of it is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RatePoint:
    """A step of the test."""

    learning_rate: float
    loss: float
    """Nats per target, smoothed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeResult:
    """What came out."""

    points: Sequence[RatePoint]

    suggested: float
    """A tenth of the rate at which the loss is lowest."""

    steepest: float
    """The rate at which the loss falls fastest."""

    diverged_at: float | None
    """The rate at which the loss ran away; None: it did not, up to the last one."""


def list_rates(steps: int) -> list[float]:
    """Return the learning rates of so many steps, from the first to the last, in equal ratios."""
    ratio = (LAST_RATE / FIRST_RATE) ** (1.0 / max(1, steps - 1))
    return [FIRST_RATE * ratio**step for step in range(steps)]


def try_rates(run: TrainingRun, steps: int) -> RangeResult:
    """Take steps of a run at ever higher learning rates, until the loss runs away.

    Args:
        run: just opened; its weights are of no use behind.
        steps: at most.

    Raises:
        DivergedError: the loss runs away at the lowest rates already.
    """
    rates, losses = list_rates(steps), []
    for step, rate in enumerate(rates, start=1):
        losses.append(read_numbers(run, take_step(run, step, False, learning_rate=rate)).loss)
        if is_hopeless(losses):
            break
    return judge_losses(rates, losses)


def judge_losses(rates: Sequence[float], losses: Sequence[float]) -> RangeResult:
    """Return what the losses of steps say, of which there may be fewer than rates.

    Raises:
        DivergedError: the loss runs away at the lowest rates already.
    """
    diverged_at = rates[len(losses) - 1] if is_hopeless(losses) else None
    points = [
        RatePoint(learning_rate=rate, loss=loss)
        for rate, loss in zip(rates, smooth_losses(losses), strict=False)
        if math.isfinite(loss)
    ]
    if len(points) < 2:
        raise DivergedError(
            f"the loss is not finite at a learning rate of {rates[0]:.2g}",
            reason="LossNotFinite",
            next_step="look at the data and the model: no learning rate will help",
        )
    lowest = min(points, key=lambda point: point.loss)
    # Rates are in equal ratios, so differences of losses are slopes over their logarithm.
    falls = [later.loss - earlier.loss for earlier, later in pairwise(points)]
    steepest = points[min(range(len(falls)), key=falls.__getitem__)]
    return RangeResult(
        points=points,
        suggested=lowest.learning_rate / SAFETY,
        steepest=steepest.learning_rate,
        diverged_at=diverged_at,
    )


def is_hopeless(losses: Sequence[float]) -> bool:
    """Tell whether the loss has run away: it is higher than at the beginning, or not finite."""
    smoothed = smooth_losses(losses)
    return not (smoothed[-1] <= HOPELESS * smoothed[0])


def smooth_losses(losses: Sequence[float]) -> list[float]:
    """Return the exponential mean of losses after each step, without bias to the beginning."""
    smoothed, mean = [], 0.0
    for count, loss in enumerate(losses, start=1):
        mean = SMOOTHING * mean + (1.0 - SMOOTHING) * loss
        smoothed.append(mean / (1.0 - SMOOTHING**count))
    return smoothed
