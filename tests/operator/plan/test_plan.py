"""The story of a job, told pass by pass."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from llmtrain_api import JobStatus, LLMTrainingJob
from llmtrain_api.records import ExitCode, ProgressRecord, RankPhase, RankProgress, Stage
from llmtrain_api.status import ConditionType, Phase
from llmtrain_operator.plan import explain_refusals, plan_job
from llmtrain_operator.plan.conditions import format_time
from llmtrain_operator.plan.types import Observed, ObservedProcess, Plan, ProcessState
from llmtrain_operator.plan.writes import is_worth_writing
from testbed.jobs import make_job, observe_process, record_failure, record_success

RUNNING, WAITING = ProcessState.RUNNING, ProcessState.WAITING
SUCCEEDED, FAILED = ProcessState.SUCCEEDED, ProcessState.FAILED
LEAVING = ProcessState.LEAVING


def with_status(job: LLMTrainingJob, status: JobStatus) -> LLMTrainingJob:
    return job.model_copy(update={"status": status})


def conditions_of(status: JobStatus) -> dict[str, str]:
    return {condition.type.value: condition.status for condition in status.conditions}


def train(index: int, incarnation: int, state: ProcessState, **facts: object) -> ObservedProcess:
    return observe_process("tiny", Stage.TRAIN, index, incarnation, state, **facts)


PREPARED = observe_process(
    "tiny", Stage.PREPARE, 0, 0, SUCCEEDED, exit_record=record_success(dataset="abc")
)


def see(*processes: ObservedProcess, progress: ProgressRecord | None = None) -> Observed:
    return Observed(processes=(PREPARED, *processes), progress=progress)


def reach_training(job: LLMTrainingJob, now: datetime) -> LLMTrainingJob:
    """Bring the job to where both train workers have been seen running."""
    for observed in (
        Observed(),
        see(),
        see(train(0, 0, RUNNING), train(1, 0, RUNNING)),
    ):
        job = with_status(job, plan_job(job, observed, now).status)
    return job


def names(plan: Plan) -> list[str]:
    return [process.name for process in plan.start]


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


AT_WORK = [RankProgress(rank=0, phase=RankPhase.TRAINING, heartbeat=0.0)]


def test_progress_is_told(job: LLMTrainingJob, now: datetime) -> None:
    job = reach_training(job, now)
    record = ProgressRecord(
        stage=Stage.TRAIN,
        index=0,
        incarnation=0,
        round=2,
        step=25,
        loss=3.14159265,
        tokens_per_second=1024.0,
        checkpoint_step=20,
        storage_safe=True,
        ranks=AT_WORK,
        now=0.0,
    )

    plan = plan_job(job, see(train(0, 0, RUNNING), train(1, 0, RUNNING), progress=record), now)

    progress = plan.status.progress
    assert progress is not None
    assert (progress.step, progress.percent, progress.remaining_seconds) == (25, 25, 150)
    assert progress.loss == 3.1416
    assert progress.steps_at_risk == 5
    assert plan.status.checkpoint is not None
    assert plan.status.checkpoint.uri == (
        "s3://models/team/runs/team/tiny-01234567/checkpoints/step-00000020"
    )
    assert plan.status.process_restarts == 1
    assert conditions_of(plan.status)["StorageSafe"] == "True"


def tell_rounds(incarnation: int, rounds: int) -> ProgressRecord:
    return ProgressRecord(
        stage=Stage.TRAIN,
        index=0,
        incarnation=incarnation,
        round=rounds,
        step=25,
        last_loss="rank 1 was killed by SIGKILL" if rounds > 1 else "",
        ranks=AT_WORK,
        now=0.0,
    )


def test_restarts_within_pods_are_counted_over_replacements_of_the_leader(
    job: LLMTrainingJob, now: datetime
) -> None:
    job = reach_training(job, now)
    told, counts = [], []
    for incarnation, rounds in ((0, 1), (0, 3), (0, 3), (1, 1), (1, 2), (0, 9)):
        processes = train(0, incarnation, RUNNING), train(1, 0, RUNNING)
        progress = tell_rounds(incarnation, rounds)
        plan = plan_job(job, see(*processes, progress=progress), now)
        told += [event.message for event in plan.events if event.reason == "RanksRestarted"]
        counts.append(plan.status.process_restarts)
        job = with_status(job, plan.status)
    assert counts == [0, 2, 2, 2, 3, 3]
    assert told == [
        "Ranks were started anew within their workers: rank 1 was killed by SIGKILL",
        "Ranks were started anew within their workers: rank 1 was killed by SIGKILL",
    ]


def test_saves_that_fail_are_said_until_one_succeeds(job: LLMTrainingJob, now: datetime) -> None:
    job = reach_training(job, now)
    told = []
    for failure in ("", "the store does not answer", ""):
        record = tell_rounds(0, 1).model_copy(
            update={"checkpoint_step": 20, "checkpoint_failure": failure}
        )
        workers = train(0, 0, RUNNING), train(1, 0, RUNNING)
        status = plan_job(job, see(*workers, progress=record), now).status
        condition = status.find_condition(ConditionType.CHECKPOINT_HEALTHY)
        assert condition is not None
        told.append((condition.status, condition.message[:54]))
        job = with_status(job, status)
    assert told == [
        ("True", ""),
        ("False", "the newest save failed: the store does not answer; tra"),
        ("True", ""),
    ]


def test_refused_checkpoints_and_skipped_saves_are_told_once(
    job: LLMTrainingJob, now: datetime
) -> None:
    job = reach_training(job, now)
    said = "refused the checkpoint of step 20: its part is short; training goes on from step 10"
    told = []
    for refused, skips in (("", 0), (said, 2), (said, 2), ("", 3)):
        record = tell_rounds(0, 1).model_copy(
            update={
                "checkpoint_refused": refused,
                "checkpoint_skips": skips,
                "checkpoint_interval_seconds": 294.4,
            }
        )
        workers = train(0, 0, RUNNING), train(1, 0, RUNNING)
        plan = plan_job(job, see(*workers, progress=record), now)
        told += [event.message for event in plan.events if event.reason == "CheckpointRefused"]
        job = with_status(job, plan.status)
    assert told == [said]
    status = job.status.checkpoint
    assert status is not None
    assert (status.refused, status.skipped, status.interval_seconds) == (said, 3, 294)


def test_a_worker_that_saved_as_it_left_tells_of_the_checkpoint(now: datetime) -> None:
    job = reach_training(make_job("tiny", run_policy={"suspend": True}), now)
    record = record_failure(ExitCode.PREEMPTED, "Preempted").model_copy(
        update={"checkpoint_step": 31}
    )
    left = train(0, 0, FAILED, exit_record=record)

    checkpoint = plan_job(job, see(left, train(1, 0, RUNNING)), now).status.checkpoint

    assert checkpoint is not None
    assert checkpoint.step == 31


def test_steps_at_risk_are_those_since_the_newest_checkpoint(
    job: LLMTrainingJob, now: datetime
) -> None:
    job = reach_training(job, now)
    workers = train(0, 0, RUNNING), train(1, 0, RUNNING)
    told = []
    for step, checkpoint, resumed in ((7, None, None), (25, 20, None), (41, None, 40)):
        record = tell_rounds(0, 1).model_copy(
            update={"step": step, "checkpoint_step": checkpoint, "resumed_step": resumed}
        )
        status = plan_job(job, see(*workers, progress=record), now).status
        assert status.progress is not None
        told.append(status.progress.steps_at_risk)
        if checkpoint is not None:
            job = with_status(job, status)
            # What it saved as it left is at risk no more.
            left = record_failure(ExitCode.PREEMPTED, "Preempted")
            left = left.model_copy(update={"checkpoint_step": 25})
            gone = plan_job(job, see(train(0, 0, FAILED, exit_record=left)), now).status
            assert gone.progress is not None
            told.append(gone.progress.steps_at_risk)
    assert told == [7, 5, 0, 21]


def test_how_long_a_save_takes_is_kept(job: LLMTrainingJob, now: datetime) -> None:
    job = reach_training(job, now)
    workers = train(0, 0, RUNNING), train(1, 0, RUNNING)
    kept = []
    for seconds in (None, 12.345, None):
        record = tell_rounds(0, 1).model_copy(update={"checkpoint_save_seconds": seconds})
        job = with_status(job, plan_job(job, see(*workers, progress=record), now).status)
        kept.append(job.status.checkpoint and job.status.checkpoint.save_seconds)
    assert kept == [None, 12.3, 12.3]


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


def test_what_a_worker_waits_for_is_said(job: LLMTrainingJob, now: datetime) -> None:
    blocked = train(
        1,
        0,
        WAITING,
        waiting_reason="CreateContainerConfigError",
        waiting_message='secret "minio" not found',
    )

    plan = plan_job(job, see(train(0, 0, RUNNING), blocked), now)

    assert 'secret "minio" not found' in plan.status.message
    assert "1 of 2 workers waits (" in plan.status.message


def test_refused_creations_are_said(job: LLMTrainingJob, now: datetime) -> None:
    plan = plan_job(job, see(), now)

    status = explain_refusals(plan.status, ("exceeded quota: gpus",), now)

    assert status.message.endswith("exceeded quota: gpus")
    ready = status.find_condition(ConditionType.WORKERS_READY)
    assert ready is not None
    assert ready.reason == "CreationRefused"


def test_a_straggler_is_told_of_once_with_its_worker_and_node(
    job: LLMTrainingJob, now: datetime
) -> None:
    job = reach_training(job, now)
    workers = train(0, 0, RUNNING, node="n0"), train(1, 0, RUNNING, node="n1")
    told, messages = [], []
    for straggler in ("", "rank 1 takes 1.8 times", "rank 1 takes 1.9 times", ""):
        record = tell_rounds(0, 1).model_copy(update={"straggler": straggler, "straggler_rank": 1})
        plan = plan_job(job, see(*workers, progress=record), now)
        told += [event.message for event in plan.events if event.reason == "Straggler"]
        messages.append(plan.status.message)
        job = with_status(job, plan.status)
    who = "The others wait for rank 1, of worker 1 on node n1"
    assert told == [f"{who}: rank 1 takes 1.8 times"]
    assert messages == ["", who, who, ""]


def test_a_rollback_is_told_and_takes_the_newest_checkpoint_back(
    job: LLMTrainingJob, now: datetime
) -> None:
    job = reach_training(job, now)
    told, steps = [], []
    for rounds, checkpoint, rollbacks in ((1, 60, None), (2, 40, 1), (2, 60, 1)):
        record = tell_rounds(0, rounds).model_copy(
            update={
                "checkpoint_step": checkpoint,
                "rollbacks": rollbacks,
                "divergence": "the loss of step 63 is nan" if rollbacks else "",
            }
        )
        plan = plan_job(job, see(train(0, 0, RUNNING), train(1, 0, RUNNING), progress=record), now)
        told += [event.message for event in plan.events if event.reason == "RolledBack"]
        job = with_status(job, plan.status)
        assert job.status.checkpoint is not None
        steps.append(job.status.checkpoint.step)
    assert told == ["the loss of step 63 is nan"]
    assert steps == [60, 40, 60]
