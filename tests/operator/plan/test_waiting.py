"""What a stage waits for, said with numbers, the registry's words, and a limit."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from llmtrain_api import JobStatus
from llmtrain_api.records import Stage
from llmtrain_api.status import ConditionType
from llmtrain_api.usage import Activity
from llmtrain_operator.plan import plan_job
from llmtrain_operator.plan.types import Observed, ObservedProcess, Plan, ProcessState
from llmtrain_operator.plan.waiting import explain_waiting
from llmtrain_operator.plan.workers import group_workers
from testbed.jobs import make_job, observe_process, record_success

IMAGE = "registry.example/trainer:2"
NOT_FOUND = 'failed to resolve reference "registry.example/trainer:2": 404 Not Found'


def wait_for(reason: str, message: str, index: int = 0, **facts: object) -> ObservedProcess:
    return observe_process(
        "tiny", Stage.TRAIN, index, 0, ProcessState.WAITING,
        waiting_reason=reason, waiting_message=message, **facts,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("ErrImagePull", NOT_FOUND),
        ("ImagePullBackOff", f'Back-off pulling image "{IMAGE}": ErrImagePull: {NOT_FOUND}'),
        ("ImagePullBackOff", f'Back-off pulling image "{IMAGE}": {NOT_FOUND}'),
    ],
)
def test_an_image_that_cannot_be_had_is_named_in_the_registry_s_words(
    reason: str, message: str, now: datetime
) -> None:
    process = wait_for(reason, message)
    workers = group_workers("tiny", Stage.TRAIN, 1, JobStatus(), [process])
    waiting = explain_waiting(workers, IMAGE, now)
    assert waiting.reason == "ImagePullFailed"
    assert waiting.message == (
        f"the worker waits (ImagePullFailed): image {IMAGE}: {NOT_FOUND}. "
        "Check workers.image and the registry's credentials."
    )


class Story:
    """A training stage of four workers whose statuses are all written."""

    def __init__(self, now: datetime, **policy: object) -> None:
        self.now = now
        self.job = make_job("tiny", replicas=4, run_policy=policy)
        self.see()

    def see(self, *processes: ObservedProcess) -> Plan:
        prepared = observe_process(
            "tiny", Stage.PREPARE, 0, 0, ProcessState.SUCCEEDED, exit_record=record_success()
        )
        plan = plan_job(self.job, Observed(processes=(prepared, *processes)), self.now)
        self.job = self.job.model_copy(update={"status": plan.status})
        return plan

    def tell(self, kind: ConditionType) -> tuple[str, str]:
        condition = self.job.status.find_condition(kind)
        assert condition is not None
        return condition.status, condition.reason


def test_an_image_that_cannot_be_had_for_long_stalls_the_job_until_it_can(now: datetime) -> None:
    story = Story(now)
    blocked = [wait_for("ErrImagePull", NOT_FOUND, i, created_at=now) for i in range(4)]
    story.see(*blocked)
    assert story.tell(ConditionType.STALLED) == ("False", "Progressing")
    story.now += timedelta(minutes=10)
    story.see(*blocked)
    assert story.tell(ConditionType.STALLED) == ("True", "ImagePullFailed")
    assert story.tell(ConditionType.SUCCEEDED)[0] == "Unknown"
    story.see(*(observe_process("tiny", Stage.TRAIN, i, 0, ProcessState.RUNNING) for i in range(4)))
    assert story.tell(ConditionType.STALLED) == ("False", "Progressing")


def place_two(now: datetime, incarnation: int = 0) -> list[ObservedProcess]:
    text = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    return [
        observe_process("tiny", Stage.TRAIN, index, incarnation, state, created_at=now, **facts)
        for index, state, facts in (
            (0, ProcessState.RUNNING, {}),
            (1, ProcessState.RUNNING, {}),
            (2, ProcessState.WAITING, blocked_by(text)),
            (3, ProcessState.WAITING, blocked_by(text)),
        )
    ]


def blocked_by(text: str) -> dict[str, str]:
    return {"waiting_reason": "Unschedulable", "waiting_message": text}


def test_workers_with_a_place_are_not_held_for_those_without(now: datetime) -> None:
    story = Story(now, placementTimeoutSeconds=120)
    two_of_four = place_two(now)
    story.see(*two_of_four)
    assert story.job.status.message.startswith("2 of 4 workers wait (Unschedulable): 0/2 nodes")

    story.now += timedelta(seconds=120)
    plan = story.see(*two_of_four)
    assert [event.reason for event in plan.events] == ["WorkersReleased"]
    assert story.tell(ConditionType.WORKERS_READY) == ("False", "Queued")
    assert story.job.status.message == (
        "2 of 4 workers found no place within 120 s (runPolicy.placementTimeoutSeconds): 0/2 nodes "
        "are available: 2 Insufficient nvidia.com/gpu. The 2 that had one were released; all are "
        "tried again at 2026-11-24T12:07:00Z."
    )
    assert story.job.status.usage is not None
    assert story.job.status.usage.activity is Activity.QUEUED
    # Told to go once that is written down; nobody failed, and none starts before its time.
    assert len(story.see(*two_of_four).remove) == 4
    story.now += timedelta(seconds=299)
    assert (story.see().start, story.job.status.restarts) == ((), 0)
    story.now += timedelta(seconds=1)
    assert [process.incarnation for process in story.see().start] == [1, 1, 1, 1]
    assert story.job.status.held_until is None


def test_workers_that_all_wait_hold_nothing(now: datetime) -> None:
    story = Story(now)
    blocked = [wait_for("Unschedulable", "no", i, created_at=now) for i in range(4)]
    story.now += timedelta(hours=1)
    assert story.see(*blocked).remove == ()
    assert story.job.status.held_until is None
