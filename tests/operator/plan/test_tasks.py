"""Several tasks prepare the data: each works for itself, and only task 0's end counts."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from llmtrain_api import LLMTrainingJob
from llmtrain_api.records import ExitCode, Stage
from llmtrain_api.status import Phase
from llmtrain_operator.plan import plan_job
from llmtrain_operator.plan.types import Observed, ObservedProcess, Plan, ProcessState
from testbed.jobs import make_job, observe_process, record_failure, record_success
from testbed.passes import with_status

RUNNING, WAITING = ProcessState.RUNNING, ProcessState.WAITING
SUCCEEDED, FAILED = ProcessState.SUCCEEDED, ProcessState.FAILED


@pytest.fixture
def job() -> LLMTrainingJob:
    """A job that prepares its data by three tasks and trains with one worker."""
    job = make_job("tiny", replicas=1)
    data = job.spec.data.model_copy(update={"tasks": 3})
    return job.model_copy(update={"spec": job.spec.model_copy(update={"data": data})})


def task(index: int, incarnation: int, state: ProcessState, **facts: object) -> ObservedProcess:
    return observe_process("tiny", Stage.PREPARE, index, incarnation, state, **facts)


def see(*processes: ObservedProcess) -> Observed:
    return Observed(processes=processes)


def reach_work(job: LLMTrainingJob, now: datetime) -> LLMTrainingJob:
    """Bring the job to where all tasks have been seen at work."""
    for observed in (Observed(), see(*(task(i, 0, RUNNING) for i in range(3)))):
        job = with_status(job, plan_job(job, observed, now).status)
    return job


def names(plan: Plan) -> list[str]:
    return [process.name for process in plan.start]


def test_as_many_tasks_start_as_are_asked_for(job: LLMTrainingJob, now: datetime) -> None:
    plan = plan_job(job, Observed(), now)
    assert names(plan) == ["tiny-prepare-0-0", "tiny-prepare-1-0", "tiny-prepare-2-0"]
    assert plan.status.workers is not None
    assert plan.status.workers.summary == "0/3"


def test_a_task_is_replaced_alone_however_often_it_fails(
    job: LLMTrainingJob, now: datetime
) -> None:
    job = reach_work(job, now)
    others = (task(0, 0, RUNNING), task(2, 0, RUNNING))
    failure = record_failure(ExitCode.RANK_LOST, "RankLost")
    for incarnation in range(4):
        failed = task(1, incarnation, FAILED, exit_code=1, exit_record=failure, finished_at=now)
        plan = plan_job(job, see(*others, failed), now)
        assert plan.status.phase is Phase.PREPARING
        assert plan.status.incarnations["prepare-1"] == incarnation + 1
        assert plan.status.group_restarts == 0
        assert not {o.process for o in others} & {*plan.start, *plan.remove}
        job = with_status(job, plan.status)


def test_a_task_without_a_place_keeps_no_other_from_work(
    job: LLMTrainingJob, now: datetime
) -> None:
    unplaced = task(2, 0, WAITING, created_at=now, waiting_reason="Unschedulable")
    observed = see(task(0, 0, RUNNING), task(1, 0, RUNNING), unplaced)
    later = now + timedelta(seconds=2 * job.spec.run_policy.placement_timeout_seconds)
    job = with_status(job, plan_job(job, Observed(), now).status)
    plan = plan_job(job, observed, later)
    assert (plan.start, plan.remove, plan.status.held_until) == ((), (), None)


def test_a_task_that_is_done_is_not_needed_when_task_0_begins_anew(
    job: LLMTrainingJob, now: datetime
) -> None:
    job = reach_work(job, now)
    done = task(1, 0, SUCCEEDED, exit_record=record_success(dataset="abc"), finished_at=now)
    lost = task(0, 0, FAILED, exit_code=137, finished_at=now)
    plan = plan_job(job, see(lost, done, task(2, 0, RUNNING)), now)
    assert names(plan) == ["tiny-prepare-0-1"]
    job = with_status(job, plan.status)
    anew = task(0, 1, RUNNING, created_at=now + timedelta(seconds=5))
    plan = plan_job(job, see(lost, anew, done, task(2, 0, RUNNING)), now)
    assert names(plan) == []


def test_training_begins_when_task_0_is_done_and_late_tasks_go(
    job: LLMTrainingJob, now: datetime
) -> None:
    job = reach_work(job, now)
    done = task(0, 0, SUCCEEDED, exit_record=record_success(dataset="abc"), finished_at=now)
    late = (task(1, 0, RUNNING), task(2, 0, WAITING))
    plan = plan_job(job, see(done, *late), now)
    assert names(plan) == ["tiny-train-0-0"]
    assert plan.remove == ()  # not before it is written down that the stage is over
    job = with_status(job, plan.status)
    train = observe_process("tiny", Stage.TRAIN, 0, 0, RUNNING)
    plan = plan_job(job, see(done, *late, train), now)
    assert plan.remove == tuple(o.process for o in late)
    assert plan.status.restarts == 0


def test_a_source_that_cannot_be_used_ends_the_job_whichever_task_meets_it(
    job: LLMTrainingJob, now: datetime
) -> None:
    job = reach_work(job, now)
    record = record_failure(ExitCode.DATA, "DocumentInvalid", "s3://corpus/a.jsonl:3: not JSON")
    failed = task(2, 0, FAILED, exit_code=record.code.value, exit_record=record, finished_at=now)
    others = (task(0, 0, RUNNING), task(1, 0, RUNNING))
    plan = plan_job(job, see(*others, failed), now)
    assert plan.status.phase is Phase.FAILED
    assert "s3://corpus/a.jsonl:3" in plan.status.message
    assert plan.remove == tuple(o.process for o in others)
