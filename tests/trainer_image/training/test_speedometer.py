"""How fast training is, by a clock of its own."""

from __future__ import annotations

import pytest

from llmtrain_trainer.training.speedometer import Pace, Speedometer


def test_pace_is_that_of_steps_alone() -> None:
    moments = iter([0.0, 2.0, 100.0, 102.0])
    speed = Speedometer(peak_tokens_per_second=200.0, clock=lambda: next(moments))
    assert speed.count_step(100, 0.5) is None
    first = Pace(tokens_per_second=50.0, data_share=0.25, utilization=0.25)
    assert speed.count_step(100, 0.5) == first
    speed.restart()
    assert speed.count_step(100, 50.0) == first  # since then there was an evaluation
    second = speed.count_step(100, 1.5)
    assert second is not None
    assert second.tokens_per_second == pytest.approx(50.0)
    assert second.data_share == pytest.approx(0.9 * 0.25 + 0.1 * 0.75)


def test_without_a_known_peak_there_is_no_utilization() -> None:
    moments = iter([0.0, 1.0])
    speed = Speedometer(clock=lambda: next(moments))
    speed.count_step(10, 0.0)
    pace = speed.count_step(10, 0.0)
    assert pace is not None
    assert pace.utilization is None
