"""The range test finds where the loss runs away, and suggests a rate below."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from llmtrain_trainer.__main__ import look, parse_arguments
from llmtrain_trainer.failures import DivergedError
from llmtrain_trainer.training.range_test import (
    is_hopeless,
    judge_losses,
    list_rates,
    smooth_losses,
)
from testbed.tiny_run import prepare_tiny_run


def test_rates_are_in_equal_ratios() -> None:
    rates = list_rates(8)
    assert rates[0] == pytest.approx(1e-6)
    assert rates[-1] == pytest.approx(10.0)
    assert np.diff(np.log(rates)) == pytest.approx([math.log(10.0)] * 7)


def test_a_curve_with_a_known_valley() -> None:
    """Flat, down around 1e-2, lowest before 1, then up: as a real one."""
    rates = list_rates(200)
    places = np.log10(rates)
    falling = 5.0 - 3.0 / (1.0 + np.exp(-4.0 * (places + 2.0)))
    losses = (falling + 40.0 * np.maximum(0, places)).tolist()
    count = next(count for count in range(1, 201) if is_hopeless(losses[:count]))
    result = judge_losses(rates, losses[:count])
    assert 1e-3 < result.steepest < 0.1
    lowest = min(result.points, key=lambda point: point.loss)
    assert result.suggested == pytest.approx(lowest.learning_rate / 10)
    assert 0.01 < result.suggested < 0.2
    assert result.diverged_at == rates[count - 1] > 1.0


def test_what_is_never_finite_is_no_curve() -> None:
    with pytest.raises(DivergedError, match="not finite"):
        judge_losses(list_rates(10), [math.nan])
    assert judge_losses(list_rates(3), [5.0, 4.0, math.inf]).diverged_at == pytest.approx(10.0)


def test_smoothing_has_no_bias_to_the_beginning() -> None:
    assert smooth_losses([3.0] * 5) == pytest.approx([3.0] * 5)


def test_a_real_model_runs_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = prepare_tiny_run(tmp_path, run="range")
    path = tmp_path / "run.json"
    path.write_text(json.dumps(config.dump()))
    command = ["learning-rate", "--config", str(path), "--steps", "60", "--json"]
    assert look(parse_arguments(command)) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["diverged_at"] is not None
    assert 1e-4 < result["suggested"] < 0.1 < result["diverged_at"]
    assert not list((tmp_path / "tiny-bucket").glob("runs/*/range/checkpoints/*"))

    assert look(parse_arguments(command[:-1])) == 0
    said = capsys.readouterr().out
    assert "the loss runs away at" in said
    assert "← suggested" in said
