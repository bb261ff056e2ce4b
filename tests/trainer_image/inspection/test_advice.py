"""What a loss curve suggests."""

from __future__ import annotations

from typing import Any

import pytest

from llmtrain_api.network import ModelSpec
from llmtrain_api.training import TrainingSpec
from llmtrain_trainer.inspection.advice import advise_training


def draw(held_out: list[float], trained: float) -> list[dict[str, float]]:
    """A curve with an evaluation every 100 steps, and one loss of training."""
    points = [
        {"step": 100.0 * (number + 1), "validationLoss": loss}
        for number, loss in enumerate(held_out)
    ]
    return [{"step": 1.0, "loss": trained}, *points]


OVERFIT = draw([2.0, 1.5, 1.6, 1.8, 2.0], trained=0.5)
FALLING = draw([3.0, 2.5, 2.2, 2.0, 1.9], trained=1.9)
FLAT = draw([3.0, 2.0, 1.9, 1.9, 1.9], trained=1.88)
WIDE = draw([3.0, 2.0, 1.9, 1.9, 1.9], trained=1.0)


@pytest.mark.parametrize(
    ("curve", "model", "optimizer", "changes"),
    [
        (OVERFIT, {}, {}, {"training.steps": 200, "model.dropout": 0.1}),
        (OVERFIT, {"dropout": 0.2}, {}, {"training.steps": 200}),
        (
            OVERFIT,
            {"dropout": 0.2},
            {"warmupSteps": 250},
            {"training.steps": 200, "training.optimizer.warmupSteps": 20},
        ),
        (FALLING, {}, {}, {"training.steps": 1000}),
        (FLAT, {"size": 10_000}, {}, {"model.size": 20_000}),
        (FLAT, {}, {}, {}),  # the shape is given: there is no one number to raise
        (WIDE, {"size": 10_000}, {}, {}),
        (OVERFIT[:4], {}, {}, {}),  # too few evaluations to say anything
        ([], {}, {}, {}),
    ],
)
def test_a_change_follows_from_the_curve(
    curve: list[dict[str, float]],
    model: dict[str, Any],
    optimizer: dict[str, Any],
    changes: dict[str, Any],
) -> None:
    training = TrainingSpec.model_validate({"steps": 500, "optimizer": optimizer})
    advised = advise_training(curve, ModelSpec.model_validate(model), training)
    assert {change.path: change.value for change in advised} == changes
    assert all(change.reason.endswith(".") for change in advised)


@pytest.mark.parametrize(
    ("length", "change"),
    [({"tokens": 10_001}, ("training.tokens", 4000)), ({"epochs": 2.5}, ("training.epochs", 1.0))],
)
def test_the_length_changes_as_it_was_given(
    length: dict[str, Any], change: tuple[str, Any]
) -> None:
    training = TrainingSpec.model_validate(length)
    advised = advise_training(OVERFIT, ModelSpec(dropout=0.2), training)
    assert [(one.path, one.value) for one in advised] == [change]
