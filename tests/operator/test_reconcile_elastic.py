"""Resizing in a simulated world: cut off anywhere, no worker meets one of another size."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from llmtrain_api import JobStatus, LLMTrainingJob
from llmtrain_api.records import ExitCode, Stage
from llmtrain_api.status import Phase
from llmtrain_operator.plan.types import (
    Event,
    Observed,
    ObservedProcess,
    Plan,
    Process,
    ProcessState,
)
from llmtrain_operator.plan.workers import LIVE_STATES
from llmtrain_operator.reconcile import reconcile
from testbed.jobs import make_job, record_failure, record_success

MAX_WORKERS = 4
NUM_FAILURES = 6
NUM_PASSES = 300
SIZES = (4, 2, 1)
START = datetime.fromisoformat("2026-11-24T12:00:00+00:00")


class OperatorKilledError(Exception):
    """The operator is gone, between two writes."""


class Cluster:
    """Pods in memory, with so many places, that take their time to leave."""

    def __init__(self, rng: random.Random) -> None:
        elastic = {"minReplicas": 1, "graceSeconds": 60, "snoozeSeconds": 120}
        policy = {"noProgressLimit": 1000, "restartLimit": 1000}
        self.job = make_job("tiny", replicas=MAX_WORKERS, elastic=elastic, run_policy=policy)
        self.rng = rng
        self.kill_chance = 0.1
        self.places = MAX_WORKERS
        self.pods: dict[str, ObservedProcess] = {}
        self.failed: set[str] = set()
        self.sizes: list[int] = []
        self.now = START

    async def read_job(self, key: str) -> LLMTrainingJob | None:
        return self.job

    async def observe(self, job: LLMTrainingJob) -> Observed:
        return Observed(processes=tuple(self.pods.values()))

    async def apply(self, job: LLMTrainingJob, plan: Plan) -> tuple[str, ...]:
        for process in plan.remove:
            self._maybe_kill_operator()
            pod = self.pods.get(process.name)
            if pod is not None and pod.state in LIVE_STATES:
                self.pods[process.name] = replace(pod, state=ProcessState.LEAVING)
            else:
                self.pods.pop(process.name, None)
        for process in plan.start:
            self._maybe_kill_operator()
            self._start(process)
        return ()

    async def write_status(self, job: LLMTrainingJob, status: JobStatus) -> None:
        self._maybe_kill_operator()
        self.job = self.job.model_copy(update={"status": status})
        if status.size is not None and self.sizes[-1:] != [status.size.workers]:
            self.sizes.append(status.size.workers)
        self._maybe_kill_operator()

    async def publish(self, job: LLMTrainingJob, events: tuple[Event, ...]) -> None:
        return

    def _start(self, process: Process) -> None:
        if process.name in self.pods:
            return  # what an apiserver answers with 409
        for other in self._list_live():
            if other.stage is not process.stage:
                continue
            assert other.index != process.index, f"{process.name} beside {other.name}"
            if process.stage is not Stage.TRAIN:
                continue
            assert process.workers is not None
            assert other.workers is not None
            common = min(process.workers, other.workers)
            would_meet = process.index < common and other.index < common
            assert process.workers == other.workers or not would_meet, (
                f"{process.name} of {process.workers} would meet {other.name} of {other.workers}"
            )
        self.pods[process.name] = ObservedProcess(
            process=process,
            state=ProcessState.WAITING,
            created_at=self.now,
            waiting_reason="Unschedulable",
        )

    def _list_live(self) -> list[Process]:
        return [o.process for o in self.pods.values() if o.state in LIVE_STATES]

    def _maybe_kill_operator(self) -> None:
        if self.rng.random() < self.kill_chance:
            raise OperatorKilledError

    def live(self) -> None:
        """Let pods go that were told to, and others have a place."""
        for name, pod in list(self.pods.items()):
            if pod.state is ProcessState.LEAVING and self.rng.random() < 0.5:
                del self.pods[name]
        taken = sum(
            o.state in (ProcessState.RUNNING, ProcessState.LEAVING) for o in self.pods.values()
        )
        for name, pod in self.pods.items():
            if pod.state is ProcessState.WAITING and taken < self.places:
                taken += 1
                self.pods[name] = replace(
                    pod, state=ProcessState.RUNNING, waiting_reason="", started_at=self.now
                )

    def fail_one(self) -> None:
        """End a pod that nobody has told to leave."""
        live = [o for o in self.pods.values() if o.state is ProcessState.RUNNING]
        live = [o for o in live if not self._is_over(o.process)]
        if live:
            victim = self.rng.choice(live)
            self.failed.add(victim.process.name)
            self._end(victim, ProcessState.FAILED)

    def finish_stage(self) -> None:
        """Let a stage succeed all of whose workers run."""
        size = self.job.status.size
        running = [
            o
            for o in self.pods.values()
            if o.process.stage is self.job.status.stage
            and o.state is ProcessState.RUNNING
            and not self._is_over(o.process)
        ]
        count = 1
        if self.job.status.stage is Stage.TRAIN:
            assert size is not None
            count = size.workers
            running = [o for o in running if o.process.workers == count]
        if len(running) == count:
            for peer in running:
                self._end(peer, ProcessState.SUCCEEDED)

    def _is_over(self, process: Process) -> bool:
        key = f"{process.stage}-{process.index}"
        return process.incarnation < self.job.status.incarnations.get(key, 0)

    def _end(self, observed: ObservedProcess, state: ProcessState) -> None:
        has_failed = state is ProcessState.FAILED
        lost = record_failure(ExitCode.PEER_LOST, "PeerLost")
        self.pods[observed.process.name] = replace(
            observed,
            state=state,
            finished_at=self.now,
            exit_record=lost if has_failed else record_success(),
        )

    def scale(self) -> None:
        """Ask for another number of workers."""
        workers = self.job.spec.workers.model_copy(update={"replicas": self.rng.choice(SIZES)})
        spec = self.job.spec.model_copy(update={"workers": workers})
        self.job = self.job.model_copy(update={"spec": spec})


@pytest.mark.parametrize("seed", range(1, 61))
async def test_no_two_sizes_meet_and_each_failure_counts_once(seed: int) -> None:
    rng = random.Random(seed)
    cluster = Cluster(rng)
    for number in range(2 * NUM_PASSES):
        cluster.now += timedelta(seconds=rng.choice([1, 5, 30]))
        try:
            await reconcile("team/tiny", cluster, lambda: cluster.now)
        except OperatorKilledError:
            continue
        cluster.live()
        if number < NUM_PASSES:
            disturb(cluster, rng)
        else:
            cluster.places = MAX_WORKERS
            cluster.finish_stage()
        if cluster.job.status.phase is Phase.SUCCEEDED:
            break
    status = cluster.job.status
    assert status.phase is Phase.SUCCEEDED, status.message
    assert len(cluster.sizes) > 1, "nothing was resized, so nothing was tested"
    assert status.restarts == len(cluster.failed)
    ended = {f"tiny-{a.stage}-{a.index}-{a.incarnation}" for a in status.attempts}
    assert ended == cluster.failed


def disturb(cluster: Cluster, rng: random.Random) -> None:
    """Let one thing happen, or none."""
    if cluster.job.status.stage is not Stage.TRAIN:
        cluster.finish_stage()
        return
    luck = rng.random()
    if luck < 0.05:
        cluster.scale()
    elif luck < 0.1:
        cluster.places = rng.randint(1, MAX_WORKERS)
    elif luck < 0.15 and len(cluster.failed) < NUM_FAILURES:
        cluster.fail_one()
