"""What follows a failure: another pod, all workers anew, or the end."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from llmtrain_api import JobStatus, LLMTrainingJob
from llmtrain_api.failures import FailureClass
from llmtrain_api.records import ExitCode, ProgressRecord, Stage
from llmtrain_api.status import Attempt, Phase
from llmtrain_api.workers import RunPolicy
from llmtrain_operator.plan import plan_job
from llmtrain_operator.plan.conditions import format_time
from llmtrain_operator.plan.ladder import (
    count_recurrences,
    delay_replacement,
    find_early_end,
    find_spent_budget,
    must_restart_group,
)
from llmtrain_operator.plan.types import Observed, ObservedProcess, Plan, ProcessState
from testbed.jobs import make_job, observe_process, record_failure, record_success

RUNNING, FAILED, LEAVING = ProcessState.RUNNING, ProcessState.FAILED, ProcessState.LEAVING
HANG, CRASH, BUG = FailureClass.HANG, FailureClass.CRASH, FailureClass.BUG
STORAGE, MEMORY = FailureClass.STORAGE, FailureClass.HOST_MEMORY
DELETED = FailureClass.INFRASTRUCTURE


def attempt(kind: FailureClass, index: int = 0, checkpoint: int | None = 40) -> Attempt:
    return Attempt(
        stage=Stage.TRAIN,
        index=index,
        incarnation=0,
        failure_class=kind,
        reason=f"Of{kind}",
        message="it broke",
        checkpoint_step=checkpoint,
    )


@pytest.mark.parametrize(
    ("attempts", "count"),
    [
        ([attempt(CRASH)], 1),
        ([attempt(CRASH), attempt(CRASH)], 2),
        ([attempt(CRASH, checkpoint=None), attempt(CRASH, checkpoint=None)], 2),
        # A checkpoint between the two: training got on.
        ([attempt(CRASH, checkpoint=20), attempt(CRASH)], 1),
        # Something else in between breaks the row; what the platform does, or a peer, does not.
        ([attempt(CRASH), attempt(HANG), attempt(CRASH)], 1),
        ([attempt(CRASH), attempt(DELETED), attempt(CRASH)], 2),
        ([attempt(CRASH), attempt(HANG, index=1), attempt(CRASH)], 2),
        # All workers at once are one incident each.
        ([attempt(BUG, index=0), attempt(BUG, index=1), attempt(BUG, index=2)], 1),
        # These come and go by themselves.
        ([attempt(STORAGE), attempt(STORAGE)], 0),
        ([attempt(DELETED), attempt(DELETED)], 0),
    ],
)
def test_recurrences_are_of_one_worker_and_one_cause_without_progress(
    attempts: list[Attempt], count: int
) -> None:
    assert count_recurrences(attempts) == count


@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        (CRASH, ["pod", "pod", "group", "group", "end"]),
        (HANG, ["pod", "pod", "group", "group", "end"]),
        # No other worker is to blame for a full memory.
        (MEMORY, ["pod", "pod", "pod", "pod", "end"]),
        (STORAGE, ["pod"] * 8),
        (FailureClass.DEVICE, ["pod"] * 8),
        (DELETED, ["pod"] * 8),
    ],
)
def test_what_recurs_climbs(kind: FailureClass, answers: list[str]) -> None:
    attempts: list[Attempt] = []
    given = []
    for _ in answers:
        attempts.append(attempt(kind))
        if find_early_end(attempts, RunPolicy()) is not None:
            given.append("end")
        else:
            given.append("group" if must_restart_group(attempts) else "pod")
    assert given == answers


@pytest.mark.parametrize(
    ("failures", "by_class", "policy", "reason"),
    [
        (10, {"crash": 10}, {}, None),
        (11, {"crash": 11}, {}, "RestartLimitReached"),
        (0, {"device": 20}, {}, None),
        (0, {"device": 21}, {}, "BudgetSpent"),
        (0, {"storage": 3}, {"budgets": {"storage": 3}}, None),
        (0, {"storage": 4}, {"budgets": {"storage": 3}}, "BudgetSpent"),
        (1, {"hostMemory": 1}, {"budgets": {"hostMemory": 0}}, "BudgetSpent"),
        (0, {"preempted": 500, "infrastructure": 500, "nodeLost": 99, "peerLost": 99}, {}, None),
    ],
)
def test_budgets(
    failures: int, by_class: dict[str, int], policy: dict[str, object], reason: str | None
) -> None:
    end = find_spent_budget(failures, by_class, "it broke", RunPolicy.model_validate(policy))
    assert (end.reason if end is not None else None) == reason


@pytest.mark.parametrize(
    ("indexes", "seconds"),
    [
        ([0], 0),
        ([0, 0], 0),
        ([0, 0, 0], 5),
        ([0, 0, 0, 0], 10),
        ([0] * 12, 300),
        # A node with eight workers goes down: nothing to wait for.
        (list(range(8)), 0),
    ],
)
def test_waits_double_for_each_failure_of_one_worker(
    now: datetime, indexes: list[int], seconds: float
) -> None:
    finished_at = format_time(now)
    attempts = [
        attempt(CRASH, index).model_copy(update={"finished_at": finished_at}) for index in indexes
    ]
    assert delay_replacement(attempts, Stage.TRAIN, now) == seconds
    assert delay_replacement(attempts, Stage.PREPARE, now) == 0
    assert delay_replacement(attempts, Stage.TRAIN, now + timedelta(hours=1)) == 0


class Story:
    """A training stage of two workers whose statuses are all written."""

    def __init__(self, now: datetime, **policy: object) -> None:
        self.now = now
        self.job: LLMTrainingJob = make_job("tiny", run_policy=policy)
        self.see()
        self.see(*self.run(0, 0))

    def run(self, *incarnations: int) -> list[ObservedProcess]:
        return [
            observe_process("tiny", Stage.TRAIN, index, incarnation, RUNNING)
            for index, incarnation in enumerate(incarnations)
        ]

    def see(self, *processes: ObservedProcess, checkpoint: int | None = None) -> Plan:
        prepared = observe_process(
            "tiny", Stage.PREPARE, 0, 0, ProcessState.SUCCEEDED, exit_record=record_success()
        )
        progress = ProgressRecord(
            stage=Stage.TRAIN, index=0, incarnation=0, round=1, checkpoint_step=checkpoint, now=0.0
        )
        observed = Observed(processes=(prepared, *processes), progress=progress)
        plan = plan_job(self.job, observed, self.now)
        self.write(plan.status)
        return plan

    def write(self, status: JobStatus) -> None:
        self.job = self.job.model_copy(update={"status": status})

    def fail(self, incarnation: int, code: ExitCode = ExitCode.RANK_LOST) -> ObservedProcess:
        return observe_process(
            "tiny", Stage.TRAIN, 1, incarnation, FAILED,
            exit_record=record_failure(code, "KeepsDying"), finished_at=self.now,
        )  # fmt: skip


def name(plan: Plan) -> tuple[list[str], list[str]]:
    return [p.name for p in plan.start], [p.name for p in plan.remove]


def test_a_worker_that_keeps_failing_has_all_started_anew_and_then_ends_the_run(
    now: datetime,
) -> None:
    story = Story(now)
    for incarnation in range(2):
        plan = story.see(story.run(0)[0], story.fail(incarnation))
        assert name(plan)[0] == [f"tiny-train-1-{incarnation + 1}"]

    plan = story.see(story.run(0)[0], story.fail(2))
    assert [event.reason for event in plan.events] == ["KeepsDying", "GroupRestarted"]
    assert story.job.status.incarnations == {"train-0": 1, "train-1": 3}
    assert story.job.status.group_restarts == 1

    # The other one is told once that is written down. While it leaves, the wait goes on.
    assert "tiny-train-0-0" not in name(plan)[1]
    assert name(story.see(story.run(0)[0])) == ([], ["tiny-train-0-0"])
    leaving = replace(story.run(0)[0], state=LEAVING)
    assert name(story.see(leaving)) == ([], [])
    story.now += timedelta(seconds=5)
    assert name(story.see(leaving))[0] == ["tiny-train-1-3"]
    assert name(story.see(story.run(0, 3)[1])) == (["tiny-train-0-1"], [])
    # It left for us: that is no attempt.
    assert [a.index for a in story.job.status.attempts] == [1, 1, 1]

    story.now += timedelta(minutes=1)
    story.see(story.run(1)[0], story.fail(3))
    assert story.job.status.phase is Phase.TRAINING
    story.see(story.run(2)[0], story.fail(4))
    status = story.job.status
    assert status.phase is Phase.FAILED
    assert status.message == (
        "worker 1 of stage train ended by KeepsDying 5 times in a row, with no checkpoint yet "
        "(runPolicy.noProgressLimit is 5); the last: it broke; Mend it."
    )


def test_a_worker_without_peers_has_no_group(now: datetime) -> None:
    job = make_job("tiny", replicas=1)
    for incarnation in range(4):
        failed = observe_process(
            "tiny", Stage.PREPARE, 0, incarnation, FAILED, exit_code=1, finished_at=now
        )
        plan = plan_job(job, Observed(processes=(failed,)), now)
        job = job.model_copy(update={"status": plan.status})
        assert "GroupRestarted" not in [event.reason for event in plan.events]
    assert (job.status.restarts, job.status.group_restarts) == (4, 0)


def test_checkpoints_in_between_forgive(now: datetime) -> None:
    story = Story(now, restartLimit=100)
    for incarnation in range(8):
        plan = story.see(story.run(0)[0], story.fail(incarnation), checkpoint=10 * incarnation)
        assert "GroupRestarted" not in [event.reason for event in plan.events]
        story.now += timedelta(minutes=20)
    assert story.job.status.phase is Phase.TRAINING
    assert [a.checkpoint_step for a in story.job.status.attempts] == [10 * i for i in range(8)]


def test_a_class_with_a_budget_of_its_own_costs_nothing_of_the_common_one(now: datetime) -> None:
    story = Story(now, restartLimit=0, budgets={"storage": 2})
    for incarnation in range(2):
        story.see(story.run(0)[0], story.fail(incarnation, ExitCode.STORAGE))
    status = story.job.status
    assert (status.failures, status.failures_by_class) == (0, {"storage": 2})
    assert status.phase is Phase.TRAINING
    story.see(story.run(0)[0], story.fail(2, ExitCode.STORAGE))
    assert story.job.status.phase is Phase.FAILED
    assert "runPolicy.budgets.storage allows (2)" in story.job.status.message


def test_what_the_platform_does_never_ends_a_run(now: datetime) -> None:
    story = Story(now, restartLimit=0, noProgressLimit=1)
    for incarnation in range(40):
        gone = observe_process(
            "tiny", Stage.TRAIN, 1, incarnation, FAILED, ended_by="Preempted", finished_at=story.now
        )
        story.see(story.run(0)[0], gone)
        story.now += timedelta(hours=1)
    assert story.job.status.phase is Phase.TRAINING
    assert (story.job.status.restarts, story.job.status.failures) == (40, 0)
    assert story.job.status.failures_by_class == {"preempted": 40}
