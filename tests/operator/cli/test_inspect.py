"""`llmtrain status` and `llmtrain logs` on what a run leaves behind, and while it lasts."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from llmtrain_api import JobStatus
from llmtrain_api.records import GateResult, Stage, StageResult
from llmtrain_api.status import Attempt, CheckpointStatus, Phase, Progress
from llmtrain_operator.world.job_folder import JobFolder
from testbed.command_line import CommandLine
from testbed.jobs import read_tiny_job

TRAINING = JobStatus(
    phase=Phase.TRAINING,
    stage=Stage.TRAIN,
    progress=Progress(
        step=30, total_steps=120, percent=25, loss=2.5, validation_loss=2.75, remaining_seconds=65
    ),
    checkpoint=CheckpointStatus(step=20),
    restarts=1,
    process_restarts=2,
    attempts=[
        Attempt(
            stage=Stage.TRAIN,
            index=1,
            incarnation=0,
            reason="WorkerKilled",
            message="tiny-train-1-0 was killed by signal 9 [sic]",
            finished_at="2026-11-24T12:00:00Z",
        )
    ],
)


@pytest.fixture
def folder(llmtrain: CommandLine) -> JobFolder:
    """A job that trains, in the store that is the default, with logs of two processes."""
    folder = JobFolder(llmtrain.folder / "llmtrain-store", "default", "tiny")
    with folder.hold():
        job = folder.submit(read_tiny_job(), datetime.now(UTC))
    folder.write_job(job.model_copy(update={"status": TRAINING}))
    for name in ("tiny-prepare-0-0", "tiny-train-1-0"):
        (folder.logs_path / f"{name}.log").write_text(f"words of {name}\n")
    return folder


def test_while_it_is_run_the_progress_is_said(llmtrain: CommandLine, folder: JobFolder) -> None:
    with folder.hold():
        said = llmtrain("status", "tiny").stdout
    assert "default/tiny  Training" in said
    assert "30/120 (25 %), loss 2.500, held-out loss 2.750, 1:05 left" in said
    assert "step 20" in said
    assert "restarts    3" in said
    assert "train-1: tiny-train-1-0 was killed by signal 9 [sic]" in said


def test_when_nobody_runs_it_the_way_on_is_said(llmtrain: CommandLine, folder: JobFolder) -> None:
    said = llmtrain("status", "tiny").stdout
    assert "tiny stopped; the same command again goes on from step 20" in said


@pytest.mark.parametrize(
    ("failed_step", "said"), [(None, "goes on from the beginning"), (20, "goes on from step 20")]
)
def test_a_failure_is_said_with_what_to_look_at(
    llmtrain: CommandLine, folder: JobFolder, failed_step: int | None, said: str
) -> None:
    job = folder.read_job()
    assert job is not None
    checkpoint = CheckpointStatus(step=failed_step) if failed_step else None
    failed = {"phase": Phase.FAILED, "message": "line 8 is bad", "checkpoint": checkpoint}
    folder.write_job(job.model_copy(update={"status": TRAINING.model_copy(update=failed)}))
    told = llmtrain("status", "tiny").stdout
    assert "tiny failed: line 8 is bad" in told
    assert "llmtrain logs tiny --store llmtrain-store" in told
    assert said in told


def test_a_model_that_fails_its_gates_is_said_with_where_it_is(
    llmtrain: CommandLine, folder: JobFolder
) -> None:
    job = folder.read_job()
    assert job is not None
    results = StageResult(
        gates=[GateResult(passed=False, value=41.5, limit=40.0)],
        export_uri="s3://models/runs/tiny/export",
    )
    failed = {"phase": Phase.FAILED, "message": "fails 1 of 1 gates", "results": results}
    folder.write_job(job.model_copy(update={"status": TRAINING.model_copy(update=failed)}))
    told = llmtrain("status", "tiny").stdout
    assert "tiny failed: fails 1 of 1 gates" in told
    assert "llmtrain-store/models/runs/tiny/export" in told
    assert "The same command again" not in told


def test_logs_of_one_process_or_of_all(llmtrain: CommandLine, folder: JobFolder) -> None:
    everything = llmtrain("logs", "tiny").stdout
    assert everything.index("words of tiny-prepare-0-0") < everything.index("words of tiny-train-1")
    one = llmtrain("logs", "tiny", "--process", "train-1").stdout
    assert one == "==> tiny-train-1-0 <==\nwords of tiny-train-1-0\n\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("status", "tony"), "no job default/tony in"),
        (("status", "tony"), "it holds: default/tiny"),
        (("status", "tiny", "-n", "team"), "no job team/tiny in"),
        (("status", "tiny", "--store", "elsewhere"), "it holds: no jobs"),
        (("logs", "tiny", "--process", "train-0"), "it has: prepare-0-0, train-1-0"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(
    llmtrain: CommandLine, folder: JobFolder, arguments: tuple[str, ...], said: str
) -> None:
    refused = llmtrain(*arguments)
    assert refused.returncode == 1
    assert said in refused.stderr
