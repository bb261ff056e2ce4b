"""The story of a job, told pass by pass: what starts, what ends, what follows."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from llmtrain_api import LLMTrainingJob
from llmtrain_api.records import ExitCode, Stage
from llmtrain_api.status import ConditionType, Phase
from llmtrain_operator.plan import plan_job
from llmtrain_operator.plan.conditions import format_time
from llmtrain_operator.plan.types import Observed, ObservedProcess
from llmtrain_operator.plan.writes import is_worth_writing
from testbed.jobs import make_job, observe_process, record_failure, record_success
from testbed.passes import (
    FAILED,
    LEAVING,
    RUNNING,
    SUCCEEDED,
    WAITING,
    conditions_of,
    names,
    reach_training,
    see,
    train,
    with_status,
)


def test_a_fresh_job_starts_to_prepare(job: LLMTrainingJob, now: datetime) -> None:
    plan = plan_job(job, Observed(), now)

    assert names(plan) == ["tiny-prepare-0-0"]
    assert plan.status.phase is Phase.PREPARING
    assert conditions_of(plan.status) == {
        "Succeeded": "Unknown",
        "Reconciling": "True",
        "Stalled": "False",
        "DataReady": "Unknown",
        "WorkersReady": "False",
        "CheckpointHealthy": "Unknown",
        "StorageSafe": "Unknown",
    }


def test_prepared_data_starts_all_workers(job: LLMTrainingJob, now: datetime) -> None:
    plan = plan_job(job, see(), now)

    assert names(plan) == ["tiny-train-0-0", "tiny-train-1-0"]
    assert plan.status.results is not None
    assert plan.status.results.dataset == "abc"
    assert conditions_of(plan.status)["DataReady"] == "True"


def test_an_evaluation_has_the_workers_that_it_asks_for(job: LLMTrainingJob, now: datetime) -> None:
    evaluation = job.spec.evaluation.model_copy(update={"workers": 3})
    job = job.model_copy(update={"spec": job.spec.model_copy(update={"evaluation": evaluation})})
    plan = plan_job(job, see(train(0, 0, SUCCEEDED), train(1, 0, SUCCEEDED)), now)
    assert names(plan) == [f"tiny-evaluate-{index}-0" for index in range(3)]


def test_the_same_facts_give_the_same_plan_and_no_change(
    job: LLMTrainingJob, now: datetime
) -> None:
    job = reach_training(job, now)
    observed = see(train(0, 0, RUNNING), train(1, 0, RUNNING))

    later = now + timedelta(hours=1)
    plan = plan_job(job, observed, later)

    assert plan.status.model_copy(update={"usage": job.status.usage}) == job.status
    assert not is_worth_writing(job.status, plan.status, later)
    assert (plan.start, plan.remove, plan.events) == ((), (), ())
    assert conditions_of(plan.status)["WorkersReady"] == "True"


def test_a_failed_worker_is_replaced_alone_and_counted_once(
    job: LLMTrainingJob, now: datetime
) -> None:
    job = reach_training(job, now)
    failed = train(1, 0, FAILED, exit_code=137, node="node-2")
    observed = see(train(0, 0, RUNNING), failed)

    plan = plan_job(job, observed, now)
    assert names(plan) == ["tiny-train-1-1"]
    assert (plan.status.restarts, plan.status.failures) == (1, 1)
    assert plan.status.attempts[0].node == "node-2"
    assert plan.remove == ()

    # The operator dies before the status is written: the same facts, with the new process there.
    again = plan_job(job, see(train(0, 0, RUNNING), failed, train(1, 1, WAITING)), now)
    assert (again.start, again.status.restarts) == ((), 1)

    # It was written: the failure counts no second time.
    job = with_status(job, plan.status)
    later = plan_job(job, see(train(0, 0, RUNNING), failed, train(1, 1, RUNNING)), now)
    assert (later.start, later.status.restarts) == ((), 1)


@pytest.mark.parametrize(("ended_by", "removed"), [("NodeLost", ["tiny-train-1-0"]), ("", [])])
def test_what_failed_stays_for_its_log_unless_nobody_can_read_it(
    job: LLMTrainingJob, now: datetime, ended_by: str, removed: list[str]
) -> None:
    job = reach_training(job, now)
    failed = train(1, 0, FAILED, exit_code=137, ended_by=ended_by)
    plan = plan_job(job, see(train(0, 0, RUNNING), failed), now)
    assert plan.remove == ()  # it is not counted yet

    job = with_status(job, plan.status)
    plan = plan_job(job, see(train(0, 0, RUNNING), failed, train(1, 1, RUNNING)), now)

    assert [process.name for process in plan.remove] == removed
    assert plan.status.restarts == 1


def test_a_worker_that_is_leaving_is_not_doubled(job: LLMTrainingJob, now: datetime) -> None:
    job = reach_training(job, now)

    plan = plan_job(job, see(train(0, 0, RUNNING), train(1, 0, LEAVING)), now)

    assert plan.start == ()


def test_a_worker_that_vanished_is_replaced_and_costs_no_budget(
    job: LLMTrainingJob, now: datetime
) -> None:
    job = reach_training(job, now)

    plan = plan_job(job, see(train(0, 0, RUNNING)), now)

    assert names(plan) == ["tiny-train-1-1"]
    assert (plan.status.restarts, plan.status.failures) == (1, 0)
    assert plan.status.attempts[0].reason == "Deleted"

    # Its replacement is not there yet: it is started again under the same name, not counted again.
    once_more = plan_job(with_status(job, plan.status), see(train(0, 0, RUNNING)), now)
    assert names(once_more) == ["tiny-train-1-1"]
    assert once_more.status.restarts == 1


def test_a_worker_that_vanished_is_counted_though_its_replacement_is_there_already(
    job: LLMTrainingJob, now: datetime
) -> None:
    """The operator was killed between the creation of the replacement and the status."""
    job = reach_training(job, now)

    plan = plan_job(job, see(train(0, 0, RUNNING), train(1, 1, WAITING)), now)

    assert names(plan) == []
    (attempt,) = plan.status.attempts
    assert (attempt.index, attempt.incarnation, attempt.reason) == (1, 0, "Deleted")
    assert (plan.status.restarts, plan.status.failures) == (1, 0)
    assert plan.status.incarnations == {"train-1": 1}


@pytest.mark.parametrize("is_last", [False, True], ids=["a stage follows", "all are done"])
@pytest.mark.parametrize(
    ("seen", "reason", "failures"),
    [((train(0, 0, FAILED, exit_code=137),), "WorkerKilled", 1), ((), "Deleted", 0)],
    ids=["failed", "vanished"],
)
def test_a_failure_is_counted_though_its_replacement_has_succeeded_already(
    job: LLMTrainingJob,
    now: datetime,
    *,
    seen: tuple[ObservedProcess, ...],
    reason: str,
    failures: int,
    is_last: bool,
) -> None:
    """The operator was killed before every status until then."""
    job = reach_training(job, now)
    state = SUCCEEDED if is_last else RUNNING
    evaluated = observe_process("tiny", Stage.EVALUATE, 0, 0, state)
    observed = see(*seen, train(0, 1, SUCCEEDED), train(1, 0, SUCCEEDED), evaluated)

    plan = plan_job(job, observed, now)

    (attempt,) = plan.status.attempts
    assert (attempt.stage, attempt.incarnation, attempt.reason) == (Stage.TRAIN, 0, reason)
    assert (plan.status.restarts, plan.status.failures) == (1, failures)
    assert plan.status.incarnations == {"train-0": 1}
    assert reason in [event.reason for event in plan.events]
    again = plan_job(with_status(job, plan.status), observed, now)
    assert (again.status.restarts, reason in [e.reason for e in again.events]) == (1, False)


def test_who_fails_where_the_stage_is_done_is_no_attempt(
    job: LLMTrainingJob, now: datetime
) -> None:
    """Nobody took its place, and nobody has to: the leader has succeeded."""
    job = reach_training(job, now)
    late = train(1, 0, FAILED, exit_code=137)

    plan = plan_job(job, see(train(0, 0, SUCCEEDED), late), now)

    assert (plan.status.attempts, plan.status.restarts) == ([], 0)


def test_workers_that_went_for_a_suspension_are_no_attempts(now: datetime) -> None:
    """The operator was killed between their deletion and the status."""
    job = reach_training(make_job("tiny", run_policy={"suspend": False}), now)
    suspended = make_job("tiny", status=job.status, run_policy={"suspend": True})

    status = plan_job(suspended, see(), now).status

    assert (status.phase, status.restarts, status.attempts) == (Phase.SUSPENDED, 0, [])
    assert status.incarnations == {"train-0": 1, "train-1": 1}


@pytest.mark.parametrize("code", [ExitCode.CONFIGURATION, ExitCode.DATA, ExitCode.DIVERGED])
def test_what_a_retry_cannot_mend_ends_the_job(
    job: LLMTrainingJob, now: datetime, code: ExitCode
) -> None:
    job = reach_training(job, now)
    record = record_failure(code, "Broken", "line 812 is not JSON.")
    observed = see(train(0, 0, RUNNING), train(1, 0, FAILED, exit_record=record))

    plan = plan_job(job, observed, now)

    assert plan.status.phase is Phase.FAILED
    assert plan.status.message == "line 812 is not JSON. Mend it."
    assert [process.name for process in plan.remove] == ["tiny-train-0-0"]
    state = conditions_of(plan.status)
    assert (state["Succeeded"], state["Stalled"], state["Reconciling"]) == (
        "False",
        "True",
        "False",
    )


def test_failures_beyond_the_limit_end_the_job(now: datetime) -> None:
    job = make_job("tiny", run_policy={"restartLimit": 0})
    job = reach_training(job, now)

    plan = plan_job(job, see(train(0, 0, RUNNING), train(1, 0, FAILED, exit_code=1)), now)

    assert plan.status.phase is Phase.FAILED
    assert "runPolicy.restartLimit allows (0)" in plan.status.message


def test_failures_in_a_row_wait_longer_each_time(job: LLMTrainingJob, now: datetime) -> None:
    job = reach_training(job, now)
    for incarnation in range(3):
        failed = train(1, incarnation, FAILED, exit_code=1, finished_at=now)
        plan = plan_job(job, see(train(0, 0, RUNNING), failed), now)
        job = with_status(job, plan.status)
    assert plan.start == ()
    assert "Trying again in 5 s" in plan.status.message

    later = plan_job(job, see(train(0, 0, RUNNING)), now + timedelta(seconds=5))
    assert names(later) == ["tiny-train-1-3"]


def test_suspension_frees_the_workers_and_resumption_starts_new_ones(now: datetime) -> None:
    job = reach_training(make_job("tiny"), now)
    spec = make_job("tiny", run_policy={"suspend": True}).spec
    suspended = job.model_copy(update={"spec": spec})

    plan = plan_job(suspended, see(train(0, 0, RUNNING), train(1, 0, RUNNING)), now)
    assert plan.status.phase is Phase.SUSPENDED
    assert len(plan.remove) == 2
    gone = plan_job(with_status(suspended, plan.status), see(), now)
    assert conditions_of(gone.status)["Reconciling"] == "False"

    resumed = plan_job(with_status(job, gone.status), see(), now)
    assert names(resumed) == ["tiny-train-0-1", "tiny-train-1-1"]
    assert resumed.status.restarts == 0


def test_a_peer_that_finished_runs_again_when_the_leader_is_replaced(
    job: LLMTrainingJob, now: datetime
) -> None:
    job = reach_training(job, now)
    finished = train(1, 0, SUCCEEDED, finished_at=now)
    failed = train(0, 0, FAILED, exit_code=1)

    plan = plan_job(job, see(failed, finished), now)

    assert names(plan) == ["tiny-train-0-1", "tiny-train-1-1"]


def test_all_stages_done_is_success(job: LLMTrainingJob, now: datetime) -> None:
    job = reach_training(job, now)
    trained = train(
        0,
        0,
        SUCCEEDED,
        exit_record=record_success(export_uri="s3://models/team/x/export", train_loss=2.5),
    )
    evaluated = observe_process(
        "tiny", Stage.EVALUATE, 0, 0, SUCCEEDED, exit_record=record_success(perplexity=9.0)
    )

    plan = plan_job(job, see(trained, evaluated), now)

    assert plan.status.phase is Phase.SUCCEEDED
    succeeded = plan.status.find_condition(ConditionType.SUCCEEDED)
    assert succeeded is not None
    assert succeeded.status == "True"
    assert plan.status.results is not None
    assert plan.status.results.perplexity == 9.0
    assert plan.status.progress is not None
    assert (plan.status.progress.percent, plan.status.progress.loss) == (100, 2.5)


def test_success_is_dated_by_its_last_process_whenever_it_is_seen(
    job: LLMTrainingJob, now: datetime
) -> None:
    job = reach_training(job, now)
    ended = now + timedelta(minutes=1)
    seen = now + timedelta(hours=2)
    trained = train(0, 0, SUCCEEDED, exit_record=record_success(export_uri="s3://models/x/export"))
    evaluated = observe_process(
        "tiny",
        Stage.EVALUATE,
        0,
        0,
        SUCCEEDED,
        finished_at=ended,
        exit_record=record_success(perplexity=9.0),
    )

    status = plan_job(job, see(trained, evaluated), seen).status

    assert status.finished_at == format_time(ended)
    assert status.usage is not None
    assert status.usage.updated_at == status.finished_at


def test_finished_processes_go_after_their_time(job: LLMTrainingJob, now: datetime) -> None:
    job = reach_training(job, now)
    evaluated = observe_process("tiny", Stage.EVALUATE, 0, 0, SUCCEEDED)
    observed = see(train(0, 0, SUCCEEDED), evaluated)
    job = with_status(job, plan_job(job, observed, now).status)

    early = plan_job(job, observed, now + timedelta(seconds=3599))
    late = plan_job(job, observed, now + timedelta(seconds=3600))

    assert (early.remove, early.requeue_after_seconds) == ((), 1.0)
    assert len(late.remove) == 3
    assert late.status == job.status
