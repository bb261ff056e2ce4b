"""Reconciling in a simulated world, with the operator killed before and after every write."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from llmtrain_api import JobStatus, LLMTrainingJob
from llmtrain_api.records import ExitCode, Stage
from llmtrain_api.status import Phase
from llmtrain_operator.plan.conditions import format_time, parse_time
from llmtrain_operator.plan.ledger import sum_seconds
from llmtrain_operator.plan.types import (
    Event,
    Observed,
    ObservedProcess,
    Plan,
    Process,
    ProcessState,
)
from llmtrain_operator.plan.workers import LIVE_STATES
from llmtrain_operator.reconcile import SAY_LATER_SECONDS, reconcile
from testbed.jobs import make_job, record_failure, record_success

START = datetime.fromisoformat("2026-11-24T12:00:00+00:00")


class OperatorKilledError(Exception):
    """The operator is gone, between two writes."""


class SimulatedWorld:
    """Processes in memory. The operator may be killed around every write."""

    def __init__(self, job: LLMTrainingJob, rng: random.Random, kill_chance: float) -> None:
        self.job = job
        self.rng = rng
        self.kill_chance = kill_chance
        self.processes: dict[str, ObservedProcess] = {}
        self.failed: set[str] = set()
        self.status_writes = 0
        self.told: list[Event] = []
        self.now = START

    async def read_job(self, key: str) -> LLMTrainingJob | None:
        return self.job if key == self.job.key else None

    async def observe(self, job: LLMTrainingJob) -> Observed:
        return Observed(processes=tuple(self.processes.values()))

    async def apply(self, job: LLMTrainingJob, plan: Plan) -> tuple[str, ...]:
        for process in plan.start:
            self._maybe_kill_operator()
            self._start(process)
            self._maybe_kill_operator()
        for process in plan.remove:
            self._maybe_kill_operator()
            self.processes.pop(process.name, None)
        return ()

    async def write_status(self, job: LLMTrainingJob, status: JobStatus) -> None:
        self._maybe_kill_operator()
        self.job = self.job.model_copy(update={"status": status})
        self.status_writes += 1
        self._maybe_kill_operator()

    async def publish(self, job: LLMTrainingJob, events: tuple[Event, ...]) -> None:
        self.told.extend(events)

    def set_states(self, state: ProcessState) -> None:
        """Let all processes be in one state."""
        self.processes = {n: replace(o, state=state) for n, o in self.processes.items()}

    def _start(self, process: Process) -> None:
        if process.name in self.processes:
            return  # what an apiserver answers with 409
        twins = [
            other.process.name
            for other in self.processes.values()
            if (other.process.stage, other.process.index) == (process.stage, process.index)
            and other.state in LIVE_STATES
        ]
        assert not twins, f"{process.name} starts while {twins} may be at work"
        self.processes[process.name] = ObservedProcess(
            process=process, state=ProcessState.RUNNING, created_at=self.now
        )

    def _maybe_kill_operator(self) -> None:
        if self.rng.random() < self.kill_chance:
            raise OperatorKilledError

    def disturb(self, failures_left: int) -> None:
        """Let one process fail, or a stage succeed."""
        live = [
            o
            for o in self.processes.values()
            if o.state is ProcessState.RUNNING and not self._must_go(o.process)
        ]
        if not live:
            return
        victim = self.rng.choice(live)
        if failures_left > 0 and self.rng.random() < 0.8:
            self.failed.add(victim.process.name)
            self._end(victim, ProcessState.FAILED, failed=True)
        elif self._is_stage_complete(victim.process.stage):
            for peer in live:
                self._end(peer, ProcessState.SUCCEEDED, failed=False)

    def _must_go(self, process: Process) -> bool:
        """Whether the status has done with it: how it ends counts no more."""
        key = f"{process.stage}-{process.index}"
        return process.incarnation < self.job.status.incarnations.get(key, 0)

    def _is_stage_complete(self, stage: Stage) -> bool:
        count = 2 if stage is Stage.TRAIN else 1
        running = [
            o
            for o in self.processes.values()
            if o.process.stage is stage and o.state is ProcessState.RUNNING
        ]
        return len(running) == count

    def _end(self, observed: ObservedProcess, state: ProcessState, *, failed: bool) -> None:
        record = record_failure(ExitCode.PEER_LOST, "PeerLost") if failed else record_success()
        self.processes[observed.process.name] = replace(
            observed, state=state, finished_at=self.now, exit_record=record
        )


def list_keys(world: SimulatedWorld) -> Iterator[str]:
    while world.job.status.phase not in (Phase.SUCCEEDED, Phase.FAILED):
        yield world.job.key


@pytest.mark.parametrize("seed", range(1, 61))
async def test_each_failure_counts_once_wherever_the_operator_is_killed(seed: int) -> None:
    rng = random.Random(seed)
    job = make_job("tiny", run_policy={"noProgressLimit": 20})
    world = SimulatedWorld(job, rng, kill_chance=0.15)
    failures_left = 8
    passes = 0
    for key in list_keys(world):
        passes += 1
        assert passes < 5000, world.job.status
        world.now += timedelta(seconds=rng.choice([1, 30, 300]))
        before = len(world.failed)
        try:
            await reconcile(key, world, lambda: world.now, is_crowded=lambda: rng.random() < 0.5)
        except OperatorKilledError:
            continue
        world.disturb(failures_left)
        failures_left -= len(world.failed) - before

    assert world.job.status.phase is Phase.SUCCEEDED
    assert world.failed, "nothing failed, so nothing was tested"
    assert world.job.status.restarts == len(world.failed)
    ended = {f"tiny-{a.stage}-{a.index}-{a.incarnation}" for a in world.job.status.attempts}
    assert ended == world.failed
    assert_time_adds_up(world.job.status)


def assert_time_adds_up(status: JobStatus) -> None:
    """The ledger's seconds sum up to wall time, whoever was killed in between."""
    assert status.usage is not None
    assert status.started_at is not None
    assert status.finished_at is not None
    elapsed = (parse_time(status.finished_at) - parse_time(status.started_at)).total_seconds()
    assert sum_seconds(status.usage) == pytest.approx(elapsed, rel=0.01)


async def test_a_second_pass_over_the_same_facts_writes_nothing() -> None:
    world = SimulatedWorld(make_job("tiny"), random.Random(0), kill_chance=0.0)
    for _ in range(3):
        await reconcile("team/tiny", world, lambda: START)
    writes = world.status_writes

    for _ in range(5):
        await reconcile("team/tiny", world, lambda: START + timedelta(hours=1))

    assert world.status_writes == writes


async def test_in_a_crowd_a_job_has_its_processes_first_and_its_status_once_they_run() -> None:
    world = SimulatedWorld(make_job("tiny"), random.Random(0), kill_chance=0.0)

    again = await reconcile("team/tiny", world, lambda: START, lambda: True)
    assert world.processes
    assert world.status_writes == 0
    assert again == SAY_LATER_SECONDS

    world.set_states(ProcessState.WAITING)
    later = START + timedelta(seconds=30)
    assert await reconcile("team/tiny", world, lambda: later, lambda: True) == SAY_LATER_SECONDS
    assert world.status_writes == 0

    world.set_states(ProcessState.RUNNING)
    await reconcile("team/tiny", world, lambda: later, lambda: True)
    status = world.job.status
    assert status.phase is Phase.PREPARING
    assert [event.reason for event in world.told] == ["StageStarted"]
    assert status.usage is not None
    assert (status.started_at, status.usage.starting_seconds) == (format_time(START), 30)


async def test_a_job_that_is_gone_needs_nothing() -> None:
    world = SimulatedWorld(make_job("tiny"), random.Random(0), kill_chance=0.0)

    assert await reconcile("team/other", world, lambda: START) is None
