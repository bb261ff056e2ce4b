"""How long a pod is given to save and leave."""

from __future__ import annotations

import pytest

from llmtrain_api.status import CheckpointStatus
from llmtrain_operator.plan.grace import compute_grace_seconds


@pytest.mark.parametrize(
    ("save_seconds", "grace"),
    [(None, 120), (0.4, 120), (30.0, 120), (60.0, 210), (90.1, 301), (3600.0, 1800)],
)
def test_three_saves_fit_in_within_bounds(save_seconds: float | None, grace: int) -> None:
    assert compute_grace_seconds(CheckpointStatus(save_seconds=save_seconds)) == grace


def test_as_long_as_nothing_was_saved_there_is_the_least() -> None:
    assert compute_grace_seconds(None) == 120
