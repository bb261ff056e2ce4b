"""Metrics as Prometheus' own parser reads them."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from llmtrain_api.records import RankPhase, Stage
from llmtrain_trainer.agent.board import Board
from llmtrain_trainer.agent.metrics import BoardCollector, render_metrics
from llmtrain_trainer.progress import RankUpdate
from testbed.tiny_run import configure_tiny_run

JOB = {"namespace": "tests", "job": "tiny", "stage": "train"}


def read_samples(root: Path, index: int) -> dict[str, tuple[dict[str, str], float]]:
    board = Board(
        stage=Stage.TRAIN, index=index, incarnation=0, total_steps=100, clock=lambda: 50.0
    )
    board.begin_round()
    board.record(
        RankUpdate(
            rank=index,
            phase=RankPhase.TRAINING,
            step=7,
            sent_at=40.0,
            facts={"loss": 1.5, "utilization": 0.4, "straggler_ratio": 1.25},
            phase_seconds={"training": 12.0},
        )
    )
    board.restarts["lost"] += 2
    config = configure_tiny_run(root, replicas=2)
    memory = {"peak": 900}  # and no limit
    collector = BoardCollector(
        board, config, stage=Stage.TRAIN, index=index, read_memory=memory.get
    )
    families = list(text_string_to_metric_families(render_metrics(collector).decode()))
    assert all(family.name.startswith("llmtrain_") for family in families)
    assert all(family.documentation.endswith(".") for family in families)
    return {
        sample.name: (sample.labels, sample.value)
        for family in families
        for sample in family.samples
    }


def test_first_worker_exports_the_run(tmp_path: Path) -> None:
    samples = read_samples(tmp_path, 0)
    assert samples["llmtrain_train_loss"] == (JOB, 1.5)
    assert samples["llmtrain_model_flops_utilization_ratio"] == (JOB, 0.4)
    assert samples["llmtrain_step"] == (JOB, 7.0)
    assert samples["llmtrain_world_size"] == (JOB, 2.0)
    assert samples["llmtrain_round_phase_seconds"] == ({**JOB, "phase": "training"}, 12.0)
    assert "llmtrain_eval_loss" not in samples


def test_every_worker_exports_its_own_ranks_only(tmp_path: Path) -> None:
    own = {**JOB, "worker": "1"}
    assert read_samples(tmp_path, 1) == {
        "llmtrain_restarts_total": ({**own, "cause": "lost"}, 2.0),
        "llmtrain_rank_heartbeat_age_seconds": ({**own, "rank": "1"}, 10.0),
        "llmtrain_straggler_ratio": ({**own, "rank": "1"}, 1.25),
        "llmtrain_memory_peak_bytes": (own, 900.0),
    }
