"""When a run ends early, and that its best weights are what it exports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmtrain_api.training import EarlyStoppingSpec
from llmtrain_trainer.evaluate import run_evaluate
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.training.early_stopping import judge_evaluations
from testbed.ranks import run_ranks
from testbed.tiny_run import find_run_folder, prepare_tiny_run


@pytest.mark.parametrize(
    ("losses", "patience", "min_change", "best_step", "is_over"),
    [
        ([], 1, 0.0, None, False),
        ([3.0], 1, 0.0, 1, False),
        ([3.0, 2.0, 1.0], 1, 0.0, 3, False),
        ([3.0, 3.0], 1, 0.0, 1, True),
        ([3.0, 2.0, 2.5, 2.5], 3, 0.0, 2, False),
        ([3.0, 2.0, 2.5, 2.5, 2.5], 3, 0.0, 2, True),
        ([3.0, 2.95, 2.91], 2, 0.1, 3, True),
        ([3.0, 2.95, 2.85], 2, 0.1, 3, False),
    ],
)
def test_verdicts(
    losses: list[float], patience: int, min_change: float, best_step: int | None, is_over: bool
) -> None:
    curve = [{"step": n, "validationLoss": loss} for n, loss in enumerate(losses, start=1)]
    curve.insert(0, {"step": 1, "loss": 0.5})
    spec = EarlyStoppingSpec(patience=patience, min_change=min_change)
    verdict = judge_evaluations(curve, spec)
    assert (verdict.best_step, verdict.is_over) == (best_step, is_over)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_the_best_weights_are_exported(tmp_path: Path, strategy: str) -> None:
    config = prepare_tiny_run(
        tmp_path,
        strategy=strategy,
        processes_per_worker=2,
        training={
            "steps": 60,
            # So high after a few steps that the loss gets worse soon.
            "optimizer": {"learningRate": 0.3, "warmupSteps": 30},
            "earlyStopping": {"patience": 2},
        },
        evaluation={"everySteps": 3, "maxSequences": 1000, "checkpoints": ["final", "best"]},
        checkpoint={"everySteps": 1000, "keepLast": 1},
    )
    log = run_ranks(config)
    assert log.result is not None
    folder = find_run_folder(config)
    curve = json.loads((folder / "curves.json").read_text())
    points = [p for p in curve if "validationLoss" in p]
    best = min(points, key=lambda p: p["validationLoss"])
    assert log.result.step == points[-1]["step"] == best["step"] + 6
    assert points[-1]["step"] < 60
    card = (folder / "export" / "README.md").read_text()
    assert f"| {best['step']} steps of 8 sequences" in card
    assert f"| held-out loss | {best['validationLoss']:.4f} nats" in card

    result = run_evaluate(config, RankGroup(), Reporter(0, lambda update: None))
    assert result.validation_loss is not None
    assert result.validation_loss < points[-1]["validationLoss"]
    assert result.checkpoints is not None
    final, kept = result.checkpoints
    assert (final.step, kept.step) == (log.result.step, best["step"])
    assert final.metrics["loss"] == pytest.approx(points[-1]["validationLoss"], abs=1e-5)
    assert kept.metrics["loss"] == result.validation_loss
