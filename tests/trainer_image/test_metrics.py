"""Metrics as Prometheus' own parser reads them."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from llmtrain_api.records import RankPhase, Stage
from llmtrain_trainer.board import ProgressBoard
from llmtrain_trainer.metrics import RestartCounter, TrainerCollector, render_metrics
from llmtrain_trainer.progress import RankUpdate


def read_samples(index: int) -> dict[str, tuple[dict[str, str], float]]:
    board = ProgressBoard(
        stage=Stage.TRAIN, index=index, incarnation=0, total_steps=100, clock=lambda: 50.0
    )
    board.begin_round()
    board.post(
        RankUpdate(
            rank=index,
            phase=RankPhase.TRAINING,
            step=7,
            sent_at=40.0,
            facts={"loss": 1.5, "storage_safe": True},
            phase_seconds={"training": 12.0},
        )
    )
    restarts = RestartCounter()
    restarts.by_cause["RankLost"] += 2
    collector = TrainerCollector(board, restarts, namespace="team", job="tiny")
    text = render_metrics(collector).decode()
    families = list(text_string_to_metric_families(text))
    assert all(family.name.startswith("llmtrain_") for family in families)
    assert all(family.documentation.endswith(".") for family in families)
    return {
        sample.name: (sample.labels, sample.value)
        for family in families
        for sample in family.samples
    }


def test_first_worker_exports_the_run() -> None:
    samples = read_samples(0)
    job = {"namespace": "team", "job": "tiny"}
    assert samples["llmtrain_train_loss"] == (job, 1.5)
    assert samples["llmtrain_step"] == (job, 7.0)
    assert samples["llmtrain_storage_safe"] == (job, 1.0)
    assert samples["llmtrain_phase_seconds_total"] == ({**job, "phase": "training"}, 12.0)
    assert "llmtrain_validation_loss" not in samples


def test_every_worker_exports_its_ranks_only() -> None:
    samples = read_samples(1)
    job = {"namespace": "team", "job": "tiny"}
    assert samples == {
        "llmtrain_rank_restarts_total": ({**job, "worker": "1", "cause": "RankLost"}, 2.0),
        "llmtrain_rank_heartbeat_age_seconds": ({**job, "rank": "1"}, 10.0),
    }
