"""What a job's status and events say of it, pass by pass."""

from __future__ import annotations

from datetime import datetime

from llmtrain_api import LLMTrainingJob
from llmtrain_api.records import ExitCode, ProgressRecord, RankPhase, RankProgress, Stage
from llmtrain_api.status import ConditionType
from llmtrain_operator.plan import explain_refusals, plan_job
from testbed.jobs import make_job, record_failure
from testbed.passes import (
    FAILED,
    RUNNING,
    WAITING,
    conditions_of,
    reach_training,
    see,
    train,
    with_status,
)

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
