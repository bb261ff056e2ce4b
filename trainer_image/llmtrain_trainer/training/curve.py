"""The curve of a run: thin where it is old, whole where it is new.

Above: `train` notes the numbers of every step, `checkpoint` keeps the curve, `divergence` goes on
listening from its newest losses, so that a resumed run judges the next one as the straight run
does; `event_file` writes it for TensorBoard, `evaluate` draws it.

What is calculated is the same in every run of the same manifest, however often it was resumed, and
lies in curves.json in the end. What is measured never is, and lies in pace.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MAX_POINTS = 1000
"""Training points of a finished curve, about; longer runs keep every n-th step."""

WHOLE_STEPS = 128
"""Of so many newest steps every one is kept."""

MEASURED = ("time", "tokensPerSecond", "utilization", "dataShare", "deviceMemoryBytes")
"""What points have beside what is calculated. time: Unix seconds."""

SMOOTHING_SHARE = 0.02
"""The smoothed curve averages over about this share of the points."""

Curve = list[dict[str, float]]
"""Points {step, loss, learningRate, gradientNorm, …} and {step, validationLoss}, in order, each
with some of what is measured."""


def note_step(curve: Curve, point: Mapping[str, float], *, total_steps: int) -> None:
    """Append a step's numbers, and drop those of the one that is now old, unless it stays."""
    curve.append(dict(point))
    old = int(point["step"]) - WHOLE_STEPS
    if old < 1 or is_kept(old, total_steps):
        return
    for index in range(len(curve) - 1, -1, -1):
        known = curve[index]
        if known["step"] < old:
            return
        if known["step"] == old and "loss" in known:
            del curve[index]
            return


def is_kept(step: int, total_steps: int) -> bool:
    """Tell whether a step's numbers stay in the curve once they are old."""
    return step % max(1, total_steps // MAX_POINTS) == 0


def list_newest_losses(curve: Curve) -> list[float]:
    """Return the losses of the newest steps, oldest first."""
    return [point["loss"] for point in curve if "loss" in point][-WHOLE_STEPS:]


def divide_curve(curve: Sequence[Mapping[str, float]]) -> tuple[Curve, Curve]:
    """Return what is calculated of a curve, and what is measured of its training steps."""
    calculated = [{k: v for k, v in point.items() if k not in MEASURED} for point in curve]
    measured = [
        {"step": point["step"], **{k: point[k] for k in MEASURED if k in point}}
        for point in curve
        if "loss" in point
    ]
    return calculated, measured


def smooth(values: Sequence[float]) -> list[float]:
    """Return the exponential moving average, corrected for its start (as in Adam)."""
    decay = 1.0 - 1.0 / max(1.0, SMOOTHING_SHARE * len(values))
    smoothed = []
    mean = 0.0
    for count, value in enumerate(values, start=1):
        mean = decay * mean + (1.0 - decay) * value
        smoothed.append(mean / (1.0 - decay**count))
    return smoothed
