"""The loss curve of a run: thin where it is old, whole where it is new.

Above: `train` notes every loss, `checkpoint` keeps the curve, reports draw it, `divergence` goes on
listening from its newest losses, so that a resumed run judges the next one as the straight run
does.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_POINTS = 1000
"""Training points of a finished curve, about; longer runs keep every n-th step."""

WHOLE_STEPS = 128
"""Of so many newest steps every one is kept."""

SMOOTHING_SHARE = 0.02
"""The smoothed curve averages over about this share of the points."""

Curve = list[dict[str, float]]
"""Points {step, loss} and {step, validationLoss}, in order."""


def note_loss(curve: Curve, step: int, loss: float, *, total_steps: int) -> None:
    """Append a step's loss, and drop the one that is now old, unless its step is a round one."""
    curve.append({"step": step, "loss": loss})
    stride = max(1, total_steps // MAX_POINTS)
    old = step - WHOLE_STEPS
    if old < 1 or old % stride == 0:
        return
    for index in range(len(curve) - 1, -1, -1):
        point = curve[index]
        if point["step"] < old:
            return
        if point["step"] == old and "loss" in point:
            del curve[index]
            return


def list_newest_losses(curve: Curve) -> list[float]:
    """Return the losses of the newest steps, oldest first."""
    return [point["loss"] for point in curve if "loss" in point][-WHOLE_STEPS:]


def smooth(values: Sequence[float]) -> list[float]:
    """Return the exponential moving average, corrected for its start (as in Adam)."""
    decay = 1.0 - 1.0 / max(1.0, SMOOTHING_SHARE * len(values))
    smoothed = []
    mean = 0.0
    for count, value in enumerate(values, start=1):
        mean = decay * mean + (1.0 - decay) * value
        smoothed.append(mean / (1.0 - decay**count))
    return smoothed
