"""The local world carries out plans with real processes, and never has two for one worker."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from llmtrain_api import ExitCode, LLMTrainingJob
from llmtrain_api.records import Stage
from llmtrain_api.size import ElasticSpec
from llmtrain_api.status import Phase
from llmtrain_operator.plan.types import ObservedProcess, ProcessState
from llmtrain_operator.plan.workers import LIVE_STATES
from llmtrain_operator.reconcile import reconcile
from llmtrain_operator.world import ConflictError
from llmtrain_operator.world.job_folder import JobBusyError, JobChangedError, JobFolder
from llmtrain_operator.world.local import FIRST_PORT, LocalWorld, fetch_progress, find_free_ports
from llmtrain_operator.world.processes import LEAVE_SECONDS
from testbed.jobs import read_tiny_job
from testbed.processes import is_alive

DEADLINE_SECONDS = 60.0
STAND_IN = Path(__file__).with_name("stand_in_agent.py")


def _now() -> datetime:
    return datetime.now(UTC)


class Clock:
    """The real time, and more of it where a test wants so."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return _now() + self.ahead


def _read_manifest(**training: int) -> LLMTrainingJob:
    job = read_tiny_job()
    section = job.spec.training.model_copy(update=training)
    return job.model_copy(update={"spec": job.spec.model_copy(update={"training": section})})


def _read_elastic(replicas: int) -> LLMTrainingJob:
    job = read_tiny_job()
    workers = job.spec.workers.model_copy(
        update={"replicas": replicas, "elastic": ElasticSpec(snooze_seconds=1)}
    )
    return job.model_copy(update={"spec": job.spec.model_copy(update={"workers": workers})})


class Run:
    """One job in one store, reconciled by hand."""

    def __init__(self, store: Path, job: LLMTrainingJob | None = None) -> None:
        self.store = store
        self.folder = JobFolder(store, "default", "tiny")
        self.told: list[str] = []
        self.clock = Clock()
        self._hold = self.folder.hold()
        self._hold.__enter__()
        self.folder.submit(job or _read_manifest(), _now())
        self.world = LocalWorld(
            self.folder,
            clock=self.clock,
            publish=lambda event: self.told.append(event.reason),
            trainer=(sys.executable, str(STAND_IN)),
        )
        self.world.configure(self.job)

    @property
    def job(self) -> LLMTrainingJob:
        job = self.folder.read_job()
        assert job is not None
        return job

    def behave(self, name: str, behaviour: str | ExitCode) -> None:
        path = self.store / "behaviour" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(str(int(behaviour)) if isinstance(behaviour, ExitCode) else behaviour)

    def observe(self) -> dict[str, ObservedProcess]:
        processes = asyncio.run(self.world.observe(self.job)).processes
        return {o.process.name: o for o in processes}

    def step(self) -> None:
        asyncio.run(reconcile("default/tiny", self.world, self.clock))
        lives = [
            (o.process.stage, o.process.index)
            for o in self.observe().values()
            if o.state in LIVE_STATES
        ]
        assert len(lives) == len(set(lives)), f"two live processes for one worker: {lives}"

    def step_until(self, is_done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not is_done():
            assert time.monotonic() < deadline, self.job.status.dump()
            self.step()
            time.sleep(0.02)

    def close(self) -> None:
        self.world.is_suspended = True
        self.world.kill_all()
        self.step_until(lambda: not self.world.has_live_processes())
        self._hold.__exit__(None, None, None)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
    yield run
    run.close()


def test_stages_run_to_success(run: Run) -> None:
    run.step_until(lambda: run.job.status.phase is Phase.SUCCEEDED)

    status = run.job.status
    assert status.restarts == 0
    assert status.results is not None
    assert status.results.dataset == "f" * 16
    assert status.results.export_uri == "s3://bucket/export"
    assert status.results.validation_loss == 1.5
    assert run.told == ["StageStarted", "StageStarted", "StageStarted", "Succeeded"]
    assert {path.name for path in run.folder.logs_path.iterdir()} == {
        "tiny-prepare-0-0.log",
        "tiny-train-0-0.log",
        "tiny-train-1-0.log",
        "tiny-evaluate-0-0.log",
    }


def test_progress_comes_from_worker_0(run: Run) -> None:
    run.behave("train-0-0", "wait")
    run.behave("train-1-0", "wait")
    run.step_until(lambda: run.job.status.progress is not None)

    progress = run.job.status.progress
    assert progress is not None
    assert (progress.step, progress.total_steps, progress.loss) == (3, 10, 2.5)
    assert run.job.status.checkpoint is not None
    assert run.job.status.checkpoint.step == 2


def test_failed_worker_is_replaced_alone(run: Run) -> None:
    run.behave("train-0-0", "wait")
    run.behave("train-1-0", ExitCode.STORAGE)
    run.behave("train-1-1", "wait")
    run.step_until(lambda: "tiny-train-1-1" in run.observe())

    assert run.observe()["tiny-train-0-0"].state is ProcessState.RUNNING
    assert run.job.status.failures == 1
    assert run.job.status.incarnations["train-1"] == 1


def test_killed_worker_is_replaced_and_the_signal_is_named(run: Run) -> None:
    for name in ("train-0-0", "train-1-0", "train-1-1"):
        run.behave(name, "wait")
    run.step_until(lambda: len(_find_pids(run)) == 2)
    os.kill(_find_pids(run)["tiny-train-1-0"], signal.SIGKILL)
    run.step_until(lambda: "tiny-train-1-1" in run.observe())

    assert [a.reason for a in run.job.status.attempts] == ["WorkerKilled"]
    assert run.job.status.attempts[0].exit_code == 128 + signal.SIGKILL


def test_ranks_of_a_killed_agent_go_with_it(run: Run) -> None:
    for name in ("train-0-0", "train-1-0", "train-1-1"):
        run.behave(name, "wait")
    run.step_until(lambda: len(_find_pids(run)) == 2)
    rank = run.store / "behaviour" / "train-1-0.rank"
    run.step_until(rank.exists)
    assert is_alive(int(rank.read_text()))
    os.kill(_find_pids(run)["tiny-train-1-0"], signal.SIGKILL)
    run.step_until(lambda: not is_alive(int(rank.read_text())))


def test_agent_that_does_not_leave_is_killed(run: Run) -> None:
    run.behave("train-0-0", "wait")
    run.behave("train-1-0", "ignore")
    run.step_until(lambda: len(_find_pids(run)) == 2)
    run.world.is_suspended = True
    run.step_until(lambda: _list_live(run) == ["tiny-train-1-0"])
    assert run.observe()["tiny-train-1-0"].state is ProcessState.LEAVING

    run.clock.ahead = timedelta(seconds=LEAVE_SECONDS)
    run.step_until(lambda: not run.world.has_live_processes())
    assert run.observe()["tiny-train-1-0"].exit_code == 128 + signal.SIGKILL


def test_configuration_error_ends_the_run_with_the_agents_words(run: Run) -> None:
    run.behave("train-0-0", "wait")
    run.behave("train-1-0", ExitCode.CONFIGURATION)
    run.step_until(lambda: run.job.status.phase is Phase.FAILED)

    assert "ended with CONFIGURATION" in run.job.status.message
    run.step_until(lambda: not run.world.has_live_processes())


def test_suspension_lets_agents_save_and_a_second_run_goes_on(run: Run) -> None:
    run.behave("train-0-0", "wait")
    run.behave("train-1-0", "wait")
    run.step_until(lambda: len(_find_pids(run)) == 2)
    run.world.is_suspended = True
    run.step_until(lambda: not run.world.has_live_processes())

    assert run.job.status.phase is Phase.SUSPENDED
    codes = {o.exit_code for o in run.observe().values() if o.process.stage is Stage.TRAIN}
    assert codes == {ExitCode.PREEMPTED}

    run.world.is_suspended = False
    run.step_until(lambda: run.job.status.phase is Phase.SUCCEEDED)
    assert run.job.status.restarts == 0
    assert run.job.status.incarnations == {"train-0": 1, "train-1": 1}


def test_a_run_goes_on_with_another_number_of_workers(tmp_path: Path) -> None:
    run = Run(tmp_path, _read_elastic(2))
    try:
        for name in ("train-0-0", "train-1-0", "train-0-1", "train-1-1", "train-0-2"):
            run.behave(name, "wait")
        run.step_until(lambda: len(_find_pids(run)) == 2)
        run.folder.submit(_read_elastic(1), _now())
        run.step_until(lambda: _list_told(run) == {"tiny-train-0-1": 1})
        run.folder.submit(_read_elastic(2), _now())
        run.step_until(lambda: _list_told(run) == {"tiny-train-0-2": 2, "tiny-train-1-1": 2})
        assert (run.job.status.restarts, run.told.count("Resized")) == (0, 2)
        with pytest.raises(JobChangedError, match=r"spec\.workers\.elastic"):
            run.folder.submit(_read_manifest(), _now())
    finally:
        run.close()


def test_second_run_refuses_another_spec_and_names_the_field(run: Run) -> None:
    with pytest.raises(JobChangedError, match=r"spec\.training\.steps: 10 → 11"):
        run.folder.submit(_read_manifest(steps=11), _now())


def test_failed_job_is_tried_again_from_its_checkpoints(run: Run) -> None:
    run.behave("train-0-0", "wait")
    run.behave("train-1-0", ExitCode.DATA)
    run.step_until(lambda: run.job.status.phase is Phase.FAILED)
    run.step_until(lambda: not run.world.has_live_processes())
    uid = run.job.metadata.uid

    run.behave("train-0-0", ExitCode.SUCCEEDED)
    run.behave("train-1-0", ExitCode.SUCCEEDED)
    run.folder.submit(_read_manifest(), _now())
    run.step_until(lambda: run.job.status.phase is Phase.SUCCEEDED)
    assert run.job.metadata.uid == uid
    assert run.job.status.failures == 0


def test_only_one_run_has_the_job(run: Run) -> None:
    with pytest.raises(JobBusyError, match="default/tiny"), run.folder.hold():
        pass


def test_a_job_that_is_held_for_a_moment_only_is_waited_for(tmp_path: Path) -> None:
    """As by `llmtrain status`, which holds it for an instant."""
    folder = JobFolder(tmp_path, "default", "tiny")
    is_held = threading.Event()

    def look() -> None:
        with JobFolder(tmp_path, "default", "tiny").hold():
            is_held.set()
            time.sleep(0.1)

    with ThreadPoolExecutor() as pool:
        looking = pool.submit(look)
        assert is_held.wait(DEADLINE_SECONDS)
        with folder.hold(patience_seconds=DEADLINE_SECONDS):
            looking.result()


def test_status_of_a_stale_read_is_refused(run: Run) -> None:
    stale = run.job
    asyncio.run(run.world.write_status(stale, stale.status))
    with pytest.raises(ConflictError):
        asyncio.run(run.world.write_status(stale, stale.status))


def test_ports_in_use_are_passed_over() -> None:
    first = find_free_ports(2, FIRST_PORT)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", first + 1))
        taken.listen()
        assert find_free_ports(2, FIRST_PORT) > first + 1


def _list_live(run: Run) -> list[str]:
    return [name for name, o in run.observe().items() if o.state in LIVE_STATES]


def _list_told(run: Run) -> dict[str, int | None]:
    """Return what the training agents that live were told: of how many workers they are one."""
    living = {name: run.observe()[name].process for name in _list_live(run)}
    return {name: p.workers for name, p in living.items() if p.stage is Stage.TRAIN}


def _find_pids(run: Run) -> dict[str, int]:
    """Return the process ids of training agents that answer."""
    pids = {}
    for lock in run.folder.processes_path.glob("tiny-train-*.lock"):
        name = lock.name.removesuffix(".lock")
        observed = run.observe().get(name)
        if observed is None or observed.state is not ProcessState.RUNNING:
            continue
        assert observed.address is not None
        if fetch_progress(observed.address) is not None:
            pids[name] = int(lock.read_text())
    return pids
