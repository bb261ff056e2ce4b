"""How many workers train together, told pass by pass: on request, and as there is room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from llmtrain_api.records import ExitCode, Stage
from llmtrain_api.status import ConditionType, Phase
from llmtrain_operator.plan import explain_refusals, plan_job
from llmtrain_operator.plan.resizing import list_allowed_sizes
from llmtrain_operator.plan.types import Observed, ObservedProcess, Plan, ProcessState
from llmtrain_operator.plan.workers import LIVE_STATES
from testbed.jobs import make_job, observe_process, record_failure, record_success

GRACE, SNOOZE = 60, 600
NO_ROOM = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
PREPARED = observe_process(
    "tiny", Stage.PREPARE, 0, 0, ProcessState.SUCCEEDED, exit_record=record_success(dataset="abc")
)


class Story:
    """A training stage in a cluster with so many places; every status is written."""

    def __init__(self, now: datetime, *, replicas: int = 4, least: int = 1, places: int = 4):
        self.now = now
        self.places = places
        self.pods: dict[str, ObservedProcess] = {}
        self.told: list[str] = []
        elastic = {"minReplicas": least, "graceSeconds": GRACE, "snoozeSeconds": SNOOZE}
        self.job = make_job("tiny", replicas=replicas, elastic=elastic)
        self.settle()

    def scale(self, replicas: int) -> None:
        """What `kubectl scale` does."""
        workers = self.job.spec.workers.model_copy(update={"replicas": replicas})
        spec = self.job.spec.model_copy(update={"workers": workers})
        self.job = self.job.model_copy(update={"spec": spec})

    def wait(self, seconds: float) -> Plan:
        """Let time pass, and then all that follows happen."""
        self.now += timedelta(seconds=seconds)
        return self.settle()

    def settle(self) -> Plan:
        """Make passes until nothing changes any more."""
        for _ in range(20):
            before = (dict(self.pods), self.job.status.model_copy(update={"usage": None}))
            plan = self.step()
            self._place()
            if (self.pods, self.job.status.model_copy(update={"usage": None})) == before:
                return plan
        raise AssertionError(f"it never settles: {self.job.status.message}")

    def step(self) -> Plan:
        """Make one pass; whoever is told to leave saves and is gone by the next one."""
        plan = plan_job(self.job, Observed(processes=(PREPARED, *self.pods.values())), self.now)
        self.job = self.job.model_copy(update={"status": plan.status})
        self.told += [f"{event.reason}: {event.message}" for event in plan.events]
        for process in plan.remove:
            self.pods.pop(process.name, None)
        for process in plan.start:
            assert process.name not in self.pods
            self.pods[process.name] = ObservedProcess(
                process=process,
                state=ProcessState.WAITING,
                created_at=self.now,
                waiting_reason="Unschedulable",
                waiting_message=NO_ROOM,
            )
        return plan

    def lose(self, name: str, **facts: Any) -> None:
        """End a pod as its platform does."""
        self.pods[name] = replace(
            self.pods[name], state=ProcessState.FAILED, finished_at=self.now, **facts
        )

    def _place(self) -> None:
        taken = sum(o.state is ProcessState.RUNNING for o in self.pods.values())
        for name, pod in self.pods.items():
            if pod.state is ProcessState.WAITING and taken < self.places:
                taken += 1
                self.pods[name] = replace(
                    pod,
                    state=ProcessState.RUNNING,
                    started_at=self.now,
                    waiting_reason="",
                    waiting_message="",
                )

    def list_live(self) -> list[tuple[int, int, int | None, str]]:
        """Index, incarnation, what it was told, and state of every pod that lives."""
        return sorted(
            (o.process.index, o.process.incarnation, o.process.workers, o.state.value)
            for o in self.pods.values()
            if o.state in LIVE_STATES
        )

    def list_resizes(self) -> list[str]:
        return [text for text in self.told if text.startswith("Resized")]


def running(numbers: Sequence[tuple[int, int]], told: int) -> list[tuple[int, int, int, str]]:
    return [(index, incarnation, told, "running") for index, incarnation in numbers]


def test_a_run_begins_with_as_many_as_are_asked_for(now: datetime) -> None:
    story = Story(now)
    assert story.list_live() == running([(0, 0), (1, 0), (2, 0), (3, 0)], 4)
    size = story.job.status.size
    assert size is not None
    assert (size.workers, size.wanted, size.reason) == (4, 4, "AsAsked")
    assert size.selector == "llmtrain.dev/job=tiny,llmtrain.dev/stage=train"
    assert story.list_resizes() == []


def test_fewer_on_request_at_once_and_more_again_without_a_pause(now: datetime) -> None:
    story = Story(now)
    story.scale(2)
    first = story.step()
    # Nobody goes before the status says so, and nobody starts while one of four is there.
    assert (first.remove, first.start, first.requeue_after_seconds) == ((), (), 0.0)
    second = story.step()
    assert len(second.remove) == 4
    assert second.start == ()
    assert story.job.status.message == (
        "the workers of before save and leave (4 are left); then 2 start"
    )
    story.settle()
    assert story.list_live() == running([(0, 1), (1, 1)], 2)

    story.scale(4)
    story.settle()
    assert story.list_live() == running([(0, 2), (1, 2), (2, 1), (3, 1)], 4)
    assert story.list_resizes() == [
        "Resized: From 4 to 2 workers: workers.replicas is 2.",
        "Resized: From 2 to 4 workers: workers.replicas is 4, and there is room for all.",
    ]
    status = story.job.status
    assert (status.restarts, status.failures, status.attempts) == (0, 0, [])


def test_no_worker_stops_training_for_one_that_has_no_place_yet(now: datetime) -> None:
    story = Story(now, replicas=1, places=1)
    story.scale(2)
    story.settle()
    assert story.list_live() == [(0, 0, 1, "running"), (1, 0, 2, "waiting")]
    assert story.job.status.message == (
        "1 of 2 workers train. The others join as soon as there is room for them."
    )
    ready = story.job.status.find_condition(ConditionType.WORKERS_READY)
    assert ready is not None
    assert (ready.status, ready.reason) == ("True", "FewerThanAsked")
    assert story.job.status.workers is not None
    assert story.job.status.workers.summary == "1/2"

    story.wait(100_000)
    assert story.list_live() == [(0, 0, 1, "running"), (1, 0, 2, "waiting")]
    story.places = 2
    story.settle()
    # Who waited is there already; the other one begins anew beside it.
    assert story.list_live() == running([(0, 1), (1, 0)], 2)
    assert story.job.status.message == ""


def test_who_finds_no_place_is_done_without_after_the_grace_and_taken_back(now: datetime) -> None:
    story = Story(now)
    story.places = 3
    story.lose("tiny-train-3-0", ended_by="NodeLost", node="n3")
    story.settle()
    assert story.list_live()[3] == (3, 1, 4, "waiting")
    assert "1 of 4 workers waits (Unschedulable)" in story.job.status.message

    story.wait(GRACE - 1)
    assert story.list_resizes() == []
    story.wait(1)
    # Three ranks do not divide a batch of 8.
    assert story.list_live() == running([(0, 1), (1, 1)], 2)
    why = "1 of 4 workers found no place within 60 s (workers.elastic.graceSeconds): " + NO_ROOM
    assert story.list_resizes() == [f"Resized: From 4 to 2 workers: {why}"]
    assert story.job.status.message == (
        f"2 of 4 workers train since {why} The others join as soon as there is room for them, "
        "from 2026-11-24T12:11:00Z on."
    )
    assert (story.job.status.restarts, story.job.status.failures) == (1, 0)

    story.places = 4
    story.wait(SNOOZE - 1)
    assert len(story.list_live()) == 2
    story.wait(1)
    assert story.list_live() == running([(0, 2), (1, 2), (2, 1), (3, 2)], 4)
    assert story.job.status.restarts == 1


def test_the_scheduler_s_word_counts_from_the_start(now: datetime) -> None:
    story = Story(now, places=1)
    assert len(story.list_live()) == 4
    story.wait(GRACE)
    assert story.list_live() == running([(0, 1)], 1)


def test_fewer_than_the_least_wait_and_the_message_says_which_may_train(now: datetime) -> None:
    story = Story(now, least=2, places=1)
    plan = story.wait(GRACE)
    assert len(story.list_live()) == 4
    assert plan.status.message.endswith(
        "There is room for 1, and 4, 2 (at least workers.elastic.minReplicas, 2, and such that the "
        "ranks divide training.batchSize, 8) workers may train."
    )
    ready = plan.status.find_condition(ConditionType.WORKERS_READY)
    assert ready is not None
    assert ready.status == "False"


def test_some_that_have_a_place_are_taken_in_after_the_grace(now: datetime) -> None:
    story = Story(now, places=1)
    story.wait(GRACE)
    story.wait(SNOOZE)
    story.places = 3
    story.settle()
    assert [state for *_, state in story.list_live()] == ["running"] * 3 + ["waiting"]
    story.wait(GRACE)
    assert story.list_live() == running([(0, 2), (1, 2)], 2)
    assert story.list_resizes()[-1] == (
        "Resized: From 1 to 2 workers: there is room for 3 of 4 workers."
    )


def test_some_that_cannot_be_used_do_not_hold_their_places(now: datetime) -> None:
    story = Story(now, places=2)
    story.wait(GRACE)
    story.wait(SNOOZE)
    story.places = 3
    story.settle()
    assert len(story.list_live()) == 4
    story.wait(GRACE)
    assert len(story.list_live()) == 2
    assert story.job.status.size is not None
    assert story.job.status.size.tries_more_at is not None
    # Nobody who trains was disturbed by that.
    assert len(story.list_resizes()) == 1
    story.wait(SNOOZE)
    assert len(story.list_live()) == 4


def test_a_quota_that_was_lowered_shrinks_a_run_too(now: datetime) -> None:
    story = Story(now)
    refused = ("exceeded quota: gpus",)
    story.lose("tiny-train-3-0", ended_by="Evicted")
    for seconds in (0, 30, 30):
        story.now += timedelta(seconds=seconds)
        plan = story.step()
        story.pods.pop("tiny-train-3-1", None)
        status = explain_refusals(plan.status, refused if plan.start else (), story.now)
        story.job = story.job.model_copy(update={"status": status})
    assert story.job.status.size is not None
    assert story.job.status.size.workers == 2
    assert "exceeded quota: gpus" in story.job.status.size.message


def test_a_refusal_of_more_does_not_stop_those_that_train(now: datetime) -> None:
    story = Story(now, replicas=1)
    story.scale(2)
    plan = story.step()
    status = explain_refusals(plan.status, ("exceeded quota: gpus",), now)
    assert "exceeded quota: gpus" in status.message
    ready = status.find_condition(ConditionType.WORKERS_READY)
    assert ready is not None
    assert ready.status == "True"


def test_a_failure_in_the_pass_of_a_change_is_still_counted(now: datetime) -> None:
    story = Story(now)
    story.lose("tiny-train-1-0", exit_code=137)
    story.scale(2)
    story.settle()
    assert story.job.status.restarts == 1
    assert story.list_live() == running([(0, 1), (1, 1)], 2)


def test_an_eviction_costs_nothing_and_says_whether_it_saved(now: datetime) -> None:
    story = Story(now)
    unsaved = record_failure(ExitCode.PREEMPTED, "PreemptedUnsaved", "the time to save is over")
    saved = record_failure(ExitCode.PREEMPTED, "Preempted", "the state is saved")
    story.lose("tiny-train-0-0", ended_by="Evicted", exit_record=saved)
    story.lose("tiny-train-1-0", ended_by="NodeLost", exit_record=unsaved, node="spot-1")
    story.settle()
    told = {a.reason: a.message for a in story.job.status.attempts}
    assert set(told) == {"PreemptedSaved", "PreemptedUnsaved"}
    assert told["PreemptedUnsaved"] == (
        "tiny-train-1-0 (on spot-1) was told to leave, since its node is to be left, and did not "
        "save: the time to save is over"
    )
    assert (story.job.status.failures, story.job.status.avoided_nodes) == (0, [])


def test_a_suspended_run_goes_on_with_as_many_as_are_asked_for(now: datetime) -> None:
    story = Story(now, places=2)
    story.wait(GRACE)
    assert len(story.list_live()) == 2
    policy = story.job.spec.run_policy
    for is_suspended, places in ((True, 4), (False, 4)):
        changed = policy.model_copy(update={"suspend": is_suspended})
        spec = story.job.spec.model_copy(update={"run_policy": changed})
        story.job = story.job.model_copy(update={"spec": spec})
        story.places = places
        story.settle()
        assert (story.job.status.phase is Phase.SUSPENDED) is is_suspended
    assert [told for _, _, told, _ in story.list_live()] == [4, 4, 4, 4]


def test_nothing_is_resized_at_the_end_and_nobody_waits_beyond_it(now: datetime) -> None:
    story = Story(now, replicas=1, places=1)
    story.scale(2)
    story.settle()
    name = "tiny-train-0-0"
    story.pods[name] = replace(
        story.pods[name], state=ProcessState.SUCCEEDED, exit_record=record_success(step=100)
    )
    story.step()
    story.step()
    assert story.job.status.stage is Stage.EVALUATE
    assert [o.process.name for o in story.pods.values() if o.state in LIVE_STATES] == [
        "tiny-evaluate-0-0"
    ]


def test_those_that_wait_go_where_they_are_not_asked_for_any_more(now: datetime) -> None:
    story = Story(now, replicas=1, places=1)
    for replicas, waiting in ((4, 3), (2, 1), (1, 0), (4, 3)):
        story.scale(replicas)
        story.settle()
        states = [state for *_, state in story.list_live()]
        assert states == ["running"] + ["waiting"] * waiting
    assert story.list_resizes() == []
    assert story.list_live()[0] == (0, 0, 1, "running")


def test_a_pod_that_was_told_of_another_number_is_replaced(now: datetime) -> None:
    """An operator died after it had made the pod, before the status with the number was there."""
    story = Story(now, replicas=2)
    old = story.pods.pop("tiny-train-1-0").process
    wrong = replace(old, incarnation=1, workers=4)
    story.pods[wrong.name] = ObservedProcess(process=wrong, state=ProcessState.RUNNING)
    story.settle()
    assert story.list_live() == running([(0, 0), (1, 2)], 2)


@pytest.mark.parametrize(
    ("replicas", "least", "per_worker", "sizes"),
    [(4, 1, 1, (4, 2, 1)), (4, 2, 1, (4, 2)), (4, 1, 2, (4, 2, 1)), (2, 2, 2, (2,))],
)
def test_allowed_are_numbers_whose_ranks_divide_the_batch(
    replicas: int, least: int, per_worker: int, sizes: tuple[int, ...]
) -> None:
    job = make_job("tiny", replicas=replicas, elastic={"minReplicas": least})
    workers = job.spec.workers.model_copy(update={"processes_per_worker": per_worker})
    assert list_allowed_sizes(job.spec.model_copy(update={"workers": workers})) == sizes


def test_without_elastic_nothing_of_this_happens(now: datetime) -> None:
    job = make_job("tiny", replicas=2)
    plan = plan_job(job, Observed(processes=(PREPARED,)), now)
    assert [process.workers for process in plan.start] == [None, None]
    assert plan.status.size is None
