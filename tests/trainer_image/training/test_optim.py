"""The optimizer against torch's own, the schedule by table."""

from __future__ import annotations

import pytest
import torch

from llmtrain_api.optimizer import OptimizerSpec, Schedule
from llmtrain_trainer.training.optim import AdamW, compute_learning_rate


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_updates_are_those_of_torch(clip: float) -> None:
    spec = OptimizerSpec(weight_decay=0.3, gradient_clip_norm=clip)
    torch.manual_seed(0)
    ours, theirs = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    optimizer = AdamW(ours.named_parameters(), spec)
    reference = torch.optim.AdamW(
        [
            {"params": [theirs.weight], "weight_decay": 0.3},
            {"params": [theirs.bias], "weight_decay": 0.0},
        ],
        lr=0.01,
        betas=(spec.beta1, spec.beta2),
        fused=True,
    )
    for step in range(5):
        inputs = torch.randn(7, 5, generator=torch.Generator().manual_seed(step))
        for model in (ours, theirs):
            model.zero_grad()
            model(inputs).square().sum().backward()
        norm = optimizer.compute_gradient_norm()
        optimizer.step(0.01, norm)
        reference_norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip or float("inf"))
        reference.step()
        assert norm.item() == pytest.approx(reference_norm.item())
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


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
