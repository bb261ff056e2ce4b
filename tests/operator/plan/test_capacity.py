"""Who finds no place, and since when."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from llmtrain_api import JobStatus
from llmtrain_api.records import Stage
from llmtrain_api.status import Condition, ConditionType
from llmtrain_operator.plan.capacity import find_shortages, list_placed, measure_wait
from llmtrain_operator.plan.conditions import format_time
from llmtrain_operator.plan.types import ProcessState
from llmtrain_operator.plan.workers import group_workers
from testbed.jobs import observe_process

MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("state", "facts", "is_short"),
    [
        (ProcessState.RUNNING, {}, False),
        (ProcessState.LEAVING, {}, False),
        (ProcessState.WAITING, {}, False),
        (ProcessState.WAITING, {"waiting_reason": "ImagePullBackOff"}, False),
        (ProcessState.WAITING, {"waiting_reason": "Unschedulable"}, True),
    ],
)
def test_only_who_the_scheduler_cannot_place_is_short_of_one(
    state: ProcessState, facts: dict[str, str], is_short: bool, now: datetime
) -> None:
    process = observe_process("tiny", Stage.TRAIN, 0, 0, state, created_at=now - MINUTE, **facts)
    workers = group_workers("tiny", Stage.TRAIN, 1, JobStatus(), [process])
    found = find_shortages(workers, JobStatus(), now)
    assert bool(found) is is_short
    assert measure_wait(found, now) == (60.0 if is_short else 0.0)
    assert bool(list_placed(workers)) is (state is ProcessState.RUNNING)


@pytest.mark.parametrize(
    ("reason", "is_short"), [("CreationRefused", True), ("StartingWorkers", False)]
)
def test_a_quota_is_want_of_room_since_workers_are_missing(
    reason: str, is_short: bool, now: datetime
) -> None:
    status = JobStatus(
        conditions=[
            Condition(
                type=ConditionType.RECONCILING,
                status="True",
                reason=reason,
                message="exceeded quota: gpus",
                last_transition_time=format_time(now - 2 * MINUTE),
            )
        ]
    )
    there = observe_process("tiny", Stage.TRAIN, 0, 0, ProcessState.RUNNING)
    workers = group_workers("tiny", Stage.TRAIN, 2, status, [there])
    found = find_shortages(workers, status, now)
    assert [(s.index, s.message) for s in found] == (
        [(1, "exceeded quota: gpus")] if is_short else []
    )
    assert measure_wait(found, now) == (120.0 if is_short else 0.0)
