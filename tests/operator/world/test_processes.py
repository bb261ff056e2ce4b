"""A run that is killed leaves no process, at whatever moment, and the next one goes on."""

from __future__ import annotations

import fcntl
import random
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from llmtrain_api.status import Phase
from llmtrain_operator.world.job_folder import JobFolder
from testbed.jobs import read_tiny_job

DEADLINE_SECONDS = 60.0
HERE = Path(__file__).parent


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    folder = JobFolder(tmp_path, "default", "tiny")
    with folder.hold():
        folder.submit(read_tiny_job(), datetime.now(UTC))
    return folder


def _start_run(folder: JobFolder) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(HERE / "drive_run.py"), str(folder.store)]
    return subprocess.Popen([*command, str(HERE / "stand_in_agent.py")])


def _behave(folder: JobFolder, name: str, behaviour: str) -> None:
    path = folder.store / "behaviour" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(behaviour)


def _list_living(folder: JobFolder) -> list[str]:
    """Return the processes whose locks are held."""
    living = []
    for path in sorted(folder.processes_path.glob("*.lock")):
        with path.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                living.append(path.name.removesuffix(".lock"))
    return living


def _wait_for_agents(folder: JobFolder, names: list[str]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while _list_living(folder) != names:
        assert time.monotonic() < deadline, _list_living(folder)
        time.sleep(0.02)


def test_killed_run_leaves_no_process_and_the_next_one_goes_on(folder: JobFolder) -> None:
    for index in range(2):
        _behave(folder, f"train-{index}-0", "wait")
    with _start_run(folder) as run:
        _wait_for_agents(folder, ["tiny-train-0-0", "tiny-train-1-0"])
        run.kill()
    _wait_for_agents(folder, [])

    with _start_run(folder) as run:
        assert run.wait(DEADLINE_SECONDS) == 0
    job = folder.read_job()
    assert job is not None
    assert job.status.phase is Phase.SUCCEEDED
    assert job.status.failures == 0
    assert job.status.incarnations == {"train-0": 1, "train-1": 1}


def test_runs_killed_at_any_moment_end_all_the_same(folder: JobFolder) -> None:
    rng = random.Random(20261124)
    deadline = time.monotonic() + DEADLINE_SECONDS
    for _ in range(8):
        with _start_run(folder) as run:
            try:
                run.wait(rng.uniform(0.3, 1.6))
            except subprocess.TimeoutExpired:
                run.kill()
    while True:
        assert time.monotonic() < deadline
        with _start_run(folder) as run:
            try:
                run.wait(DEADLINE_SECONDS)
            finally:
                run.kill()
        job = folder.read_job()
        assert job is not None
        if job.status.finished_at is not None:
            break
    assert job.status.phase is Phase.SUCCEEDED
    assert job.status.failures == 0
    _wait_for_agents(folder, [])
