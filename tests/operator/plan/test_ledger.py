"""Where the time of a run goes, by a story with a clock."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

import pytest

from llmtrain_api import JobStatus, LLMTrainingJob
from llmtrain_api.records import ExitCode, ProgressRecord, RankPhase, RankProgress, Stage
from llmtrain_api.usage import Activity, Usage
from llmtrain_operator.plan import explain_refusals, plan_job
from llmtrain_operator.plan.conditions import parse_time
from llmtrain_operator.plan.ledger import sum_seconds
from llmtrain_operator.plan.types import Observed, ObservedProcess, ProcessState
from testbed.jobs import make_job, observe_process, record_failure, record_success

RUNNING, WAITING = ProcessState.RUNNING, ProcessState.WAITING
SUCCEEDED, FAILED = ProcessState.SUCCEEDED, ProcessState.FAILED
STEP_SECONDS = 2.0


class Story:
    """A job whose statuses are all written."""

    def __init__(self, now: datetime) -> None:
        self.job: LLMTrainingJob = make_job("tiny")
        self.began = self.now = now

    @property
    def usage(self) -> Usage:
        assert self.job.status.usage is not None
        return self.job.status.usage

    def see(self, *processes: ObservedProcess, progress: ProgressRecord | None = None) -> Activity:
        """One pass; returns what the run is then at."""
        plan = plan_job(self.job, Observed(processes=processes, progress=progress), self.now)
        self.write(plan.status)
        return self.usage.activity or Activity.SUSPENDED

    def write(self, status: JobStatus) -> None:
        self.job = self.job.model_copy(update={"status": status})

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def tell(self, step: int, phase: RankPhase, rounds: int = 1) -> ProgressRecord:
        tokens = self.job.spec.training.global_batch * self.job.spec.training.sequence_length
        return ProgressRecord(
            stage=Stage.TRAIN,
            index=0,
            incarnation=0,
            round=rounds,
            step=step,
            tokens_per_second=tokens / STEP_SECONDS,
            ranks=[RankProgress(rank=0, phase=phase, step=step, heartbeat=0.0)],
            now=0.0,
        )


@pytest.fixture
def story(now: datetime) -> Story:
    return Story(now)


PREPARE = observe_process("tiny", Stage.PREPARE, 0, 0, RUNNING)
PREPARED = observe_process(
    "tiny", Stage.PREPARE, 0, 0, SUCCEEDED, exit_record=record_success(dataset="abc")
)


def train(state: ProcessState, *, incarnation: int = 0, **facts: object) -> list[ObservedProcess]:
    return [
        observe_process("tiny", Stage.TRAIN, 0, incarnation, state, **facts),
        observe_process("tiny", Stage.TRAIN, 1, 0, state, **facts),
    ]


def test_every_second_goes_to_what_the_run_was_at(story: Story) -> None:
    assert story.see() is Activity.STARTING
    story.wait(3)
    blocked = observe_process(
        "tiny", Stage.PREPARE, 0, 0, WAITING, waiting_reason="Unschedulable", waiting_message="no"
    )
    assert story.see(blocked) is Activity.QUEUED
    story.wait(60)
    assert story.see(PREPARE) is Activity.PREPARING
    story.wait(20)
    assert story.see(PREPARED) is Activity.STARTING
    story.wait(2)
    assert story.see(PREPARED, *train(RUNNING)) is Activity.STARTING
    story.wait(8)
    phases = (
        (RankPhase.RESTORING, 0, Activity.STARTING, 1),
        (RankPhase.TRAINING, 0, Activity.TRAINING, 100),
        (RankPhase.CHECKPOINTING, 50, Activity.CHECKPOINTING, 4),
        (RankPhase.EVALUATING, 50, Activity.EVALUATING, 6),
        (RankPhase.TRAINING, 50, Activity.TRAINING, 96),
        (RankPhase.EXPORTING, 98, Activity.CHECKPOINTING, 5),
    )
    for phase, step, activity, seconds in phases:
        progress = story.tell(step, phase)
        assert story.see(PREPARED, *train(RUNNING), progress=progress) is activity
        story.wait(seconds)
    trained = train(SUCCEEDED, exit_record=record_success(export_uri="s3://b/e"))
    story.see(PREPARED, *trained)
    story.wait(1)
    evaluate = observe_process("tiny", Stage.EVALUATE, 0, 0, RUNNING)
    assert story.see(PREPARED, *trained, evaluate) is Activity.EVALUATING
    story.wait(10)
    done = observe_process("tiny", Stage.EVALUATE, 0, 0, SUCCEEDED, exit_record=record_success())
    story.see(PREPARED, *trained, done)

    usage = story.usage
    assert usage.activity is None
    assert {
        name: value for name, value in usage.model_dump().items() if name.endswith("_seconds")
    } == {
        "queued_seconds": 60,
        "preparing_seconds": 20,
        "starting_seconds": 3 + 2 + 8 + 1 + 1,
        "training_seconds": 196,
        "lost_seconds": 0,
        "checkpointing_seconds": 9,
        "evaluating_seconds": 16,
        "down_seconds": 0,
        "suspended_seconds": 0,
    }
    assert sum_seconds(usage) == (story.now - story.began).total_seconds()
    assert usage.goodput_percent == round(100 * 196 / sum_seconds(usage))


def reach_training(story: Story) -> None:
    story.see()
    story.see(PREPARED)
    story.see(PREPARED, *train(RUNNING), progress=story.tell(0, RankPhase.TRAINING))


def test_repeated_steps_are_moved_to_what_is_lost(story: Story) -> None:
    reach_training(story)
    story.wait(100)
    story.see(PREPARED, *train(RUNNING), progress=story.tell(50, RankPhase.TRAINING))
    # While they restore, nobody knows yet how much it is.
    story.see(PREPARED, *train(RUNNING), progress=story.tell(0, RankPhase.RESTORING, rounds=2))
    assert story.usage.lost_steps == 0
    assert story.job.status.progress is not None
    assert story.job.status.progress.step == 50
    # By the time that it is asked, some of them are done again.
    again = story.tell(44, RankPhase.TRAINING, rounds=2)
    again = again.model_copy(update={"resumed_step": 40})
    for _ in range(2):  # told once only
        story.see(PREPARED, *train(RUNNING), progress=again)
        usage = story.usage
        assert usage.lost_steps == 10
        assert usage.lost_seconds == pytest.approx(10 * STEP_SECONDS)
        assert usage.training_seconds == pytest.approx(100 - 10 * STEP_SECONDS)
        assert sum_seconds(usage) == pytest.approx(100)


def test_a_worker_that_outlived_the_loss_knows_better_how_far_it_had_come(story: Story) -> None:
    reach_training(story)
    story.see(PREPARED, *train(RUNNING), progress=story.tell(50, RankPhase.TRAINING))
    again = story.tell(44, RankPhase.TRAINING, rounds=2)
    again = again.model_copy(update={"resumed_step": 40, "lost_step": 57})
    story.see(PREPARED, *train(RUNNING), progress=again)
    assert story.usage.lost_steps == 17


def test_a_round_of_which_no_rank_has_spoken_has_lost_nothing_yet(story: Story) -> None:
    story.see(PREPARED, *train(RUNNING), progress=story.tell(17, RankPhase.TRAINING))
    begun = story.tell(17, RankPhase.RESTORING, rounds=2)
    story.see(PREPARED, *train(RUNNING), progress=begun.model_copy(update={"ranks": []}))
    resumed = story.tell(18, RankPhase.TRAINING, rounds=2)
    resumed = resumed.model_copy(update={"resumed_step": 17})
    story.see(PREPARED, *train(RUNNING), progress=resumed)
    assert story.usage.lost_steps == 0


def test_lost_steps_are_written_to_the_failure_that_cost_them(story: Story) -> None:
    reach_training(story)
    story.see(PREPARED, *train(RUNNING), progress=story.tell(50, RankPhase.TRAINING))
    lost = [
        observe_process("tiny", Stage.TRAIN, index, 0, FAILED, ended_by="Deleted")
        for index in (0, 1)
    ]
    story.see(PREPARED, *lost)
    assert [a.lost_steps for a in story.job.status.attempts] == [None, None]
    new = [observe_process("tiny", Stage.TRAIN, index, 1, RUNNING) for index in (0, 1)]
    record = story.tell(41, RankPhase.TRAINING)
    record = record.model_copy(update={"incarnation": 1, "resumed_step": 40})
    story.see(PREPARED, *new, progress=record)
    assert [a.lost_steps for a in story.job.status.attempts] == [10, 0]
    assert story.usage.lost_steps == 10


@pytest.mark.parametrize("seed", range(20))
def test_the_ledger_sums_up_to_wall_time_over_restarts_of_the_operator(
    story: Story, seed: int
) -> None:
    """Passes whose status is lost, as the operator dies, and absences of up to a day."""
    rng = random.Random(seed)
    reach_training(story)
    step, rounds, incarnation = 0, 1, 0
    for _ in range(300):
        story.wait(rng.choice([0.4, 3, 15, 40, 3600, 86400]) * rng.random())
        if rng.random() < 0.2:
            rounds, step = rounds + 1, step * 3 // 4
        if rng.random() < 0.1:
            incarnation, rounds = incarnation + 1, 1
        step += rng.randrange(20)
        phase = rng.choice(list(RankPhase))
        record = story.tell(step, phase, rounds).model_copy(
            update={"incarnation": incarnation, "resumed_step": step // 2}
        )
        before = story.job
        story.see(PREPARED, *train(RUNNING, incarnation=incarnation), progress=record)
        if rng.random() < 0.4:
            story.job = before  # killed before the status was written
    elapsed = (story.now - story.began).total_seconds()
    usage = story.usage
    assert usage.updated_at is not None
    unwritten = (story.now - parse_time(usage.updated_at)).total_seconds()
    assert sum_seconds(usage) + unwritten == pytest.approx(elapsed, rel=0.01)
    assert usage.lost_steps > 0


def test_a_lost_worker_is_time_down_and_so_is_the_operator_s_own_absence(story: Story) -> None:
    reach_training(story)
    story.wait(10)
    lost = observe_process(
        "tiny", Stage.TRAIN, 1, 0, FAILED,
        exit_record=record_failure(ExitCode.RANK_LOST, "RanksKeepDying"),
    )  # fmt: skip
    assert story.see(PREPARED, train(RUNNING)[0], lost) is Activity.DOWN
    # Nobody looks for a while: the time goes to what was last known.
    story.wait(30)
    story.see(
        PREPARED,
        train(RUNNING)[0],
        observe_process("tiny", Stage.TRAIN, 1, 1, RUNNING),
        progress=story.tell(5, RankPhase.TRAINING, rounds=2),
    )
    assert story.usage.down_seconds == 30
    assert story.usage.training_seconds == 10
    assert sum_seconds(story.usage) == (story.now - story.began).total_seconds()


def test_waiting_for_a_quota_is_time_in_the_queue(story: Story) -> None:
    plan = plan_job(story.job, Observed(), story.now)
    story.write(explain_refusals(plan.status, ("exceeded quota",), story.now))
    story.wait(40)
    story.see(PREPARE)
    assert story.usage.queued_seconds == 40


def test_suspended_time_is_no_part_of_goodput(story: Story) -> None:
    reach_training(story)
    story.wait(50)
    policy = story.job.spec.run_policy.model_copy(update={"suspend": True})
    spec = story.job.spec.model_copy(update={"run_policy": policy})
    story.job = story.job.model_copy(update={"spec": spec})
    assert story.see(PREPARED) is Activity.SUSPENDED
    story.wait(1000)
    story.see(PREPARED)
    usage = story.usage
    assert (usage.training_seconds, usage.suspended_seconds) == (50, 1000)
    assert usage.goodput_percent == 100


def test_the_clock_of_the_ledger_is_that_of_the_status(story: Story) -> None:
    story.see()
    assert story.usage.updated_at is not None
    assert parse_time(story.usage.updated_at) == story.now.replace(microsecond=0)
