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
    """As `find_best_step` says."""

    is_over: bool = False
    """Whether the run was patient for long enough."""


def judge_evaluations(curve: Sequence[dict[str, Any]], spec: EarlyStoppingSpec) -> Verdict:
    """Return what the points {step, validationLoss} of a curve say."""
    reference = float("inf")
    waited = 0
    for point in curve:
        if "validationLoss" not in point:
            continue
        loss = float(point["validationLoss"])
        waited += 1
        if loss < reference - spec.min_change:
            reference, waited = loss, 0
    return Verdict(best_step=find_best_step(curve), is_over=waited >= spec.patience)


def find_best_step(curve: Sequence[dict[str, Any]]) -> int | None:
    """Return the first step with the lowest loss on held-out text; None before any evaluation."""
    measured = [point for point in curve if "validationLoss" in point]
    return int(min(measured, key=lambda p: p["validationLoss"])["step"]) if measured else None
