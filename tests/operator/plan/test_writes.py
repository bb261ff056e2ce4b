"""Which status is worth a write."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from llmtrain_api import JobStatus
from llmtrain_api.status import Condition, ConditionType, Phase, Progress, WorkersStatus
from llmtrain_api.usage import Usage
from llmtrain_operator.plan.conditions import format_time
from llmtrain_operator.plan.types import Observed, ObservedProcess, ProcessState
from llmtrain_operator.plan.writes import (
    GRADUAL_WRITE_SECONDS,
    SILENT_SECONDS,
    can_wait,
    is_worth_writing,
)
from testbed.passes import train

NOW = datetime.fromisoformat("2026-11-24T12:00:00+00:00")
SOON, LATER = timedelta(seconds=1), timedelta(seconds=GRADUAL_WRITE_SECONDS)


def describe(
    *, running: int = 0, reason: str = "Starting", phase: Phase = Phase.TRAINING, step: int = 1
) -> JobStatus:
    """Return the status of a job of four workers, written at NOW."""
    ready = "True" if reason == "AllRunning" else "False"
    return JobStatus(
        phase=phase,
        message=f"{4 - running} of 4 workers start",
        workers=WorkersStatus(desired=4, running=running, summary=f"{running}/4"),
        conditions=[
            Condition(
                type=ConditionType.WORKERS_READY,
                status=ready,
                reason=reason,
                message=f"{4 - running} of 4 workers start",
                last_transition_time=format_time(NOW),
                observed_generation=1,
            )
        ],
        progress=Progress(
            step=step, total_steps=9, percent=0, incarnation=0, round=1, updated_at=format_time(NOW)
        ),
        usage=Usage(updated_at=format_time(NOW)),
    )


@pytest.mark.parametrize(
    ("before", "after", "soon", "later"),
    [
        pytest.param(describe(), describe(), False, False, id="nothing"),
        pytest.param(describe(step=1), describe(step=2), False, True, id="a step further"),
        pytest.param(describe(), describe(running=1), False, True, id="one more has started"),
        pytest.param(
            describe(running=3), describe(running=4, reason="AllRunning"), True, True, id="all run"
        ),
        pytest.param(
            describe(running=4, reason="AllRunning"), describe(running=3), True, True, id="one lost"
        ),
        pytest.param(
            describe(), describe(reason="ImagePullBackOff"), True, True, id="something is missing"
        ),
        pytest.param(describe(), describe(phase=Phase.FAILED), True, True, id="another phase"),
    ],
)
def test_what_changes_gradually_is_written_once_in_a_while(
    before: JobStatus, after: JobStatus, soon: bool, later: bool
) -> None:
    assert is_worth_writing(before, after, NOW + SOON) is soon
    assert is_worth_writing(before, after, NOW + LATER) is later


def test_the_ledger_alone_is_worth_no_write() -> None:
    before = describe()
    after = before.model_copy(update={"usage": Usage(training_seconds=60)})

    assert not is_worth_writing(before, after, NOW + timedelta(hours=1))


WAITING = train(0, 0, ProcessState.WAITING, created_at=NOW)
OLD = train(1, 0, ProcessState.WAITING, created_at=NOW - timedelta(seconds=SILENT_SECONDS))
RUNNING = train(1, 0, ProcessState.RUNNING, created_at=NOW)


@pytest.mark.parametrize(
    ("before", "after", "processes", "waits"),
    [
        pytest.param(JobStatus(), describe(), (), True, id="just started"),
        pytest.param(describe(phase=Phase.SUSPENDED), describe(), (WAITING,), True, id="resumed"),
        pytest.param(JobStatus(), describe(), (WAITING, RUNNING), True, id="some start"),
        pytest.param(JobStatus(), describe(), (WAITING, OLD), False, id="for long"),
        pytest.param(JobStatus(), describe(reason="AllRunning"), (RUNNING,), False, id="all run"),
        pytest.param(
            JobStatus(), describe(reason="Unschedulable"), (WAITING,), False, id="no room"
        ),
        pytest.param(
            JobStatus(),
            describe(),
            (WAITING, train(1, 0, ProcessState.FAILED)),
            False,
            id="a loss to count",
        ),
        pytest.param(describe(), describe(running=1), (WAITING,), False, id="not the first"),
    ],
)
def test_only_a_first_status_of_processes_that_start_can_wait(
    before: JobStatus, after: JobStatus, processes: tuple[ObservedProcess, ...], waits: bool
) -> None:
    assert can_wait(before, after, Observed(processes=processes), NOW) is waits
