"""The exit record fits where the kubelet keeps it, whatever a failure says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmtrain_api.records import MAX_EXIT_RECORD_BYTES, ExitCode, ExitRecord, StageResult
from llmtrain_trainer.exit_record import (
    Whereabouts,
    record_failure,
    record_success,
    write_record,
)
from llmtrain_trainer.failures import DataError, StageError

WHERE = Whereabouts(rank=3, step=17, checkpoint_step=10)


def test_failure_keeps_its_name_and_place(tmp_path: Path) -> None:
    error = DataError("line 3 is bad", reason="BadLine", next_step="mend it")
    write_record(tmp_path / "log", record_failure(error, WHERE))
    assert json.loads((tmp_path / "log").read_text()) == {
        "code": ExitCode.DATA,
        "reason": "BadLine",
        "message": "line 3 is bad",
        "nextStep": "mend it",
        "rank": 3,
        "step": 17,
        "checkpointStep": 10,
    }


def test_success_carries_the_result(tmp_path: Path) -> None:
    result = StageResult(step=12, train_loss=1.5)
    write_record(tmp_path / "log", record_success(result, Whereabouts(step=12)))
    record = ExitRecord.model_validate_json((tmp_path / "log").read_bytes())
    assert (record.code, record.result) == (ExitCode.SUCCEEDED, result)


@pytest.mark.parametrize("letter", ["x", "€", "\x01", "\U0001f5c4"])
def test_long_failure_is_cut_to_whole_json(tmp_path: Path, letter: str) -> None:
    error = StageError(letter * 5000, reason="R" * 200, next_step=letter * 5000)
    write_record(tmp_path / "log", record_failure(error, WHERE))
    data = (tmp_path / "log").read_bytes()
    assert len(data) <= MAX_EXIT_RECORD_BYTES
    record = ExitRecord.model_validate_json(data)
    assert record.message.startswith(letter * 100)
    assert record.message.endswith("…")


def test_record_replaces_an_older_longer_one(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("x" * 9000)
    write_record(tmp_path / "log", record_success(StageResult(), Whereabouts()))
    ExitRecord.model_validate_json((tmp_path / "log").read_bytes())
