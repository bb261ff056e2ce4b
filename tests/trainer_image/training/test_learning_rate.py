"""The schedule of the learning rate, by table."""

from __future__ import annotations

import pytest

from llmtrain_api.network import ModelSpec
from llmtrain_api.optimizer import OptimizerSpec, Schedule
from llmtrain_api.training import TrainingSpec
from llmtrain_trainer.training.learning_rate import compute_learning_rate


@pytest.mark.parametrize(
    ("step", "warmup_steps", "expected"),
    [
        (1, 10, 0.1),
        (10, 10, 1.0),
        (55, 10, 0.6),  # half of the cosine: the mean of 1.0 and 0.2
        (100, 10, 0.2),
        (1, 0, pytest.approx(1.0, abs=1e-3)),
        (1, None, 0.1),  # a tenth of 100 steps
        (100, 100, 1.0),
    ],
)
def test_learning_rate(step: int, warmup_steps: int | None, expected: float) -> None:
    spec = OptimizerSpec(final_learning_rate_ratio=0.2, warmup_steps=warmup_steps)
    assert compute_learning_rate(step, spec, 100, peak=1.0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # After 10 steps of warm-up: in the middle, before and within the last fifth, at the end.
        (Schedule.COSINE, [0.6, 0.294, 0.224, 0.2]),
        (Schedule.LINEAR, [0.6, 0.378, 0.289, 0.2]),
        (Schedule.WSD, [1.0, 1.0, 0.6, 0.2]),
        (Schedule.CONSTANT, [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_schedules(schedule: Schedule, expected: list[float]) -> None:
    spec = OptimizerSpec(schedule=schedule, final_learning_rate_ratio=0.2, warmup_steps=10)
    rates = [compute_learning_rate(step, spec, 100, peak=1.0) for step in (55, 80, 90, 100)]
    assert rates == pytest.approx(expected, abs=1e-3)


def test_default_warmup_is_at_most_a_thousand_steps() -> None:
    spec = OptimizerSpec()
    assert compute_learning_rate(1000, spec, 100_000, peak=1.0) == 1.0
    assert compute_learning_rate(1001, spec, 100_000, peak=1.0) < 1.0


@pytest.mark.parametrize(
    ("model", "expected"),
    [({}, 0.01), ({"size": 100_000_000}, 0.01), ({"from": "s3://models/t5"}, 0.001)],
)
def test_steps_of_adafactor_are_relative(model: dict[str, object], expected: float) -> None:
    training = TrainingSpec.model_validate({"steps": 1, "optimizer": {"kind": "adafactor"}})
    assert training.find_learning_rate(ModelSpec.model_validate(model)) == expected
