"""When saves are due, by steps, by the clock, and by what they cost."""

from __future__ import annotations

import math

import pytest

from llmtrain_api.checkpoint import CheckpointSpec
from llmtrain_trainer.checkpoint.schedule import (
    EXPECTED_SECONDS_BETWEEN_FAILURES,
    FIRST_INTERVAL_SECONDS,
    MAX_INTERVAL_SECONDS,
    SaveSchedule,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def schedule(
    clock: Clock, *, interruptions: int = 0, run_seconds: float = 0.0, **spec: object
) -> SaveSchedule:
    return SaveSchedule(
        CheckpointSpec.model_validate(spec),
        interruptions=interruptions,
        run_seconds=run_seconds,
        clock=clock,
    )


@pytest.mark.parametrize(("spec", "due"), [({}, [200, 400]), ({"everySteps": 150}, [150, 300])])
def test_steps_are_counted_by_default(spec: dict[str, int], due: list[int]) -> None:
    clock = Clock()
    by_steps = schedule(clock, **spec)
    assert [step for step in range(1, 401) if by_steps.is_step_due(step)] == due
    clock.now += 1e6
    assert not by_steps.is_time_due()
    assert by_steps.interval_seconds is None


def test_minutes_are_counted_from_the_newest_save() -> None:
    clock = Clock()
    by_clock = schedule(clock, everyMinutes=2)
    assert not by_clock.is_step_due(200)
    clock.now += 119.0
    assert not by_clock.is_time_due()
    clock.now += 1.0
    assert by_clock.is_time_due()
    by_clock.note_begun(0.5)
    assert not by_clock.is_time_due()


def test_auto_is_young_s_interval() -> None:
    clock = Clock()
    auto = schedule(clock, auto=True)
    assert auto.interval_seconds == FIRST_INTERVAL_SECONDS
    auto.note_begun(0.5)
    best = math.sqrt(2 * 0.5 * EXPECTED_SECONDS_BETWEEN_FAILURES)
    assert auto.interval_seconds == pytest.approx(best)
    clock.now += best * 1.01  # a run without failures lengthens it a little
    assert auto.is_time_due()


def test_auto_is_shorter_for_cheap_saves_and_frequent_failures() -> None:
    clock = Clock()

    def choose(cost_seconds: float, interruptions: int = 0, run_seconds: float = 0.0) -> float:
        auto = schedule(clock, interruptions=interruptions, run_seconds=run_seconds, auto=True)
        auto.note_begun(cost_seconds)
        assert auto.interval_seconds is not None
        return auto.interval_seconds

    assert choose(0.25) == pytest.approx(choose(1.0) / 2)
    assert choose(1.0, interruptions=3) == pytest.approx(choose(1.0) / 2)
    assert choose(1.0, run_seconds=3 * EXPECTED_SECONDS_BETWEEN_FAILURES) > choose(1.0)
    assert choose(1e6) == MAX_INTERVAL_SECONDS


def test_auto_waits_for_a_save_that_takes_long() -> None:
    clock = Clock()
    auto = schedule(clock, auto=True)
    auto.note_begun(1e-6)
    clock.now += 40.0
    auto.note_committed()
    assert auto.interval_seconds == 40.0
