"""Whether a run is to end early, and which of its evaluations was the best.

Below: the spec and points of the loss curve. Above: `train` asks after each evaluation. The curve
is in every checkpoint, so a resumed run answers as the straight one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmtrain_api.training import EarlyStoppingSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the evaluations so far say."""

    best_step: int | None = None
    """The first step with the lowest loss on held-out text; None before any evaluation."""

    is_over: bool = False
    """Whether the run was patient for long enough."""


def judge_evaluations(curve: Sequence[dict[str, Any]], spec: EarlyStoppingSpec) -> Verdict:
    """Return what the points {step, validationLoss} of a curve say."""
    best_step: int | None = None
    best = reference = float("inf")
    waited = 0
    for point in curve:
        if "validationLoss" not in point:
            continue
        loss = float(point["validationLoss"])
        if loss < best:
            best, best_step = loss, int(point["step"])
        waited += 1
        if loss < reference - spec.min_change:
            reference, waited = loss, 0
    return Verdict(best_step=best_step, is_over=waited >= spec.patience)
