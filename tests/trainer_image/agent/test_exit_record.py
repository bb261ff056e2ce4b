"""The exit record fits where the kubelet keeps it, whatever a failure says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmtrain_api.records import (
    MAX_EXIT_RECORD_BYTES,
    MAX_SUITE_METRICS,
    CheckpointResult,
    ExitCode,
    ExitRecord,
    StageResult,
)
from llmtrain_trainer.agent.exit_record import describe_failure, describe_success, write_exit_record
from llmtrain_trainer.failures import DataError, StageError


def test_failure_keeps_its_name_and_place(tmp_path: Path) -> None:
    error = DataError("line 3 is bad", reason="BadLine", next_step="mend it")
    record = describe_failure(error, rank=3, step=17, checkpoint_step=10)
    write_exit_record(record, tmp_path / "log")
    assert json.loads((tmp_path / "log").read_text()) == {
        "code": ExitCode.DATA,
        "reason": "BadLine",
        "message": "line 3 is bad",
        "nextStep": "mend it",
        "rank": 3,
        "step": 17,
        "checkpointStep": 10,
    }


def test_success_carries_the_result_and_replaces_longer_text(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("x" * 9000)
    result = StageResult(step=12, train_loss=1.5)
    write_exit_record(describe_success(result), tmp_path / "log")
    record = ExitRecord.model_validate_json((tmp_path / "log").read_bytes())
    assert (record.code, record.step, record.result) == (ExitCode.SUCCEEDED, 12, result)


@pytest.mark.parametrize("letter", ["x", "€", "\x01", "\U0001f5c4"])
def test_long_failure_is_cut_to_whole_json(tmp_path: Path, letter: str) -> None:
    error = StageError(letter * 5000, reason="R" * 200, next_step=letter * 5000)
    write_exit_record(describe_failure(error), tmp_path / "log")
    data = (tmp_path / "log").read_bytes()
    assert len(data) <= MAX_EXIT_RECORD_BYTES
    record = ExitRecord.model_validate_json(data)
    assert record.message.startswith(letter * 100)
    assert record.message.endswith("…")


def test_checkpoints_give_way_before_suites(tmp_path: Path) -> None:
    suites = {f"a_suite_of_24_characters.metric_{n}": 1 / 3 for n in range(MAX_SUITE_METRICS)}
    checkpoints = [CheckpointResult(name=f"step-{n}", step=n, metrics=suites) for n in range(1, 5)]
    result = StageResult(validation_loss=3.0, suites=suites, checkpoints=checkpoints)
    write_exit_record(describe_success(result), tmp_path / "log")
    record = ExitRecord.model_validate_json((tmp_path / "log").read_bytes())
    assert record.result == StageResult(validation_loss=3.0, suites=suites)
