"""The loss curve keeps what is new and thins what is old."""

from __future__ import annotations

import pytest

from llmtrain_trainer.training.curve import (
    MAX_POINTS,
    WHOLE_STEPS,
    Curve,
    divide_curve,
    list_newest_losses,
    note_step,
    smooth,
)


def note_all(total_steps: int, until: int) -> Curve:
    curve: Curve = []
    for step in range(1, until + 1):
        note_step(curve, {"step": step, "loss": float(step)}, total_steps=total_steps)
        if step % 50 == 0:
            curve.append({"step": step, "validationLoss": 0.5})
    return curve


@pytest.mark.parametrize("total_steps", [300, MAX_POINTS, 5 * MAX_POINTS, 7 * MAX_POINTS])
def test_newest_losses_are_all_there_and_old_ones_are_few(total_steps: int) -> None:
    curve = note_all(total_steps, total_steps)
    newest = range(total_steps - WHOLE_STEPS + 1, total_steps + 1)
    assert list_newest_losses(curve) == list(map(float, newest))
    assert [point["step"] for point in curve] == sorted(point["step"] for point in curve)
    losses = [point for point in curve if "loss" in point]
    assert len(losses) <= MAX_POINTS + WHOLE_STEPS
    assert sum("validationLoss" in point for point in curve) == total_steps // 50


def test_a_resumed_curve_ends_as_the_straight_one() -> None:
    straight = note_all(5000, 5000)
    resumed = note_all(5000, 3210)
    for step in range(3211, 5001):
        note_step(resumed, {"step": step, "loss": float(step)}, total_steps=5000)
        if step % 50 == 0:
            resumed.append({"step": step, "validationLoss": 0.5})
    assert resumed == straight


def test_smoothing_starts_at_the_first_value() -> None:
    assert smooth([3.0] * 200) == pytest.approx([3.0] * 200)
    assert smooth([5.0, 1.0]) == pytest.approx([5.0, 1.0])  # too short to smooth


def test_what_is_measured_is_kept_apart_from_what_is_the_same_in_every_run() -> None:
    point = {"step": 1, "loss": 5.0, "gradientNorm": 2.0}
    told = [{**point, "time": 7.0, "dataShare": 0.5}, {"step": 1, "validationLoss": 4.0, "time": 8}]
    assert divide_curve(told) == (
        [point, {"step": 1, "validationLoss": 4.0}],
        [{"step": 1, "time": 7.0, "dataShare": 0.5}],
    )
