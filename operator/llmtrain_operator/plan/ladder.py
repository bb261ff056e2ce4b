"""The ladder of answers to failures: another pod, all workers anew, or an end. With what waits.

Below: the attempts of the status, the budgets of `runPolicy`. Above: `attempts` asks for the rung
of each failure, `plan_job` whether to end, `at_work` how long to wait.

The first rung is not here: ranks are started anew within their pods by the agent
(`llmtrain_trainer.agent.rounds`), which gives its place free where that does not help. What then
recurs in the same worker, for the same cause and without a newer checkpoint, climbs: twice another
pod, then all workers anew, since what is wrong may be in a peer that looks healthy, and at last the
end, because one more attempt would cost time and nodes and end alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from llmtrain_api.failures import FailureClass
from llmtrain_api.records import Stage
from llmtrain_api.status import Attempt
from llmtrain_api.workers import RunPolicy
from llmtrain_operator.plan.conditions import parse_time

POD_ATTEMPTS = 2
"""Failures of a worker for one cause that are answered by another pod; then comes the group."""

CLIMBING_CLASSES = frozenset(
    {
        FailureClass.HOST_MEMORY,
        FailureClass.DEVICE_MEMORY,
        FailureClass.NO_SPACE,
        FailureClass.HANG,
        FailureClass.CRASH,
        FailureClass.BUG,
        FailureClass.PEER_LOST,
        FailureClass.IMAGE,
    }
)
"""Classes whose recurrence says that trying again is no help. A store may come back any time, and
a broken GPU is left behind."""

GROUP_CLASSES = frozenset(
    {FailureClass.HANG, FailureClass.CRASH, FailureClass.BUG, FailureClass.PEER_LOST}
)
"""Those of them whose cause may be another worker than the one that failed."""

FREE_REPLACEMENTS = 2
"""Replacements of a worker in a row that are made at once."""
FIRST_DELAY_SECONDS = 5.0
"""Wait before the next one after those; doubles from there."""
MAX_DELAY_SECONDS = 300.0
"""Longest wait between two replacements."""
STREAK_WINDOW_SECONDS = 900.0
"""Failures further apart than this are not in a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Why a run is given up."""

    reason: str
    message: str


def count_recurrences(attempts: Sequence[Attempt]) -> int:
    """Return how many times in a row the newest attempt's worker has failed like that.

    Alike is: the same cause, and no checkpoint committed in between. Other workers, and what the
    platform did to this one, do not break the row.
    """
    newest = attempts[-1]
    if newest.failure_class not in CLIMBING_CLASSES:
        return 0
    count = 0
    for attempt in reversed(attempts):
        of_worker = (attempt.stage, attempt.index) == (newest.stage, newest.index)
        if not of_worker or attempt.failure_class not in CLIMBING_CLASSES:
            continue
        if _find_cause(attempt) != _find_cause(newest):
            break
        count += 1
    return count


def must_restart_group(attempts: Sequence[Attempt]) -> bool:
    """Tell whether the newest failure is answered by starting all workers of its stage anew."""
    return (
        attempts[-1].failure_class in GROUP_CLASSES and count_recurrences(attempts) > POD_ATTEMPTS
    )


def find_early_end(attempts: Sequence[Attempt], policy: RunPolicy) -> End | None:
    """Return why to give up after the newest attempt, where it only repeats those before."""
    newest, count = attempts[-1], count_recurrences(attempts)
    if count < policy.no_progress_limit:
        return None
    since = "with no checkpoint yet"
    if newest.checkpoint_step is not None:
        since = f"and training never got beyond the checkpoint of step {newest.checkpoint_step}"
    times = "once" if count == 1 else f"{count} times in a row"
    return End(
        reason="NoProgress",
        message=f"worker {newest.index} of stage {newest.stage} ended by {newest.reason} {times}, "
        f"{since} (runPolicy.noProgressLimit is {policy.no_progress_limit}); the last: "
        f"{newest.message}",
    )


def find_spent_budget(
    failures: int, by_class: Mapping[str, int], last: str, policy: RunPolicy
) -> End | None:
    """Return why to give up where a budget is spent.

    Args:
        failures: how many count against `restartLimit`.
        by_class: how many there were of each class.
        last: what the newest one says.
        policy: the limits.
    """
    for kind in FailureClass:
        limit = policy.budgets.find_limit(kind)
        count = by_class.get(kind, 0)
        if limit is not None and count > limit:
            return End(
                reason="BudgetSpent",
                message=f"{count} failures of class {kind} are more than "
                f"runPolicy.budgets.{kind} allows ({limit}); the last: {last}",
            )
    if failures > policy.restart_limit:
        return End(
            reason="RestartLimitReached",
            message=f"{failures} failures are more than runPolicy.restartLimit allows "
            f"({policy.restart_limit}); the last: {last}",
        )
    return None


def delay_replacement(attempts: Sequence[Attempt], stage: Stage, now: datetime) -> float:
    """Return the seconds to wait before the next replacement in a stage; 0 is at once.

    Doubles with each failure of one worker in a row, so that a store that is down is not hammered;
    infrastructure that took a pod away, or many at once, costs nothing.
    """
    recent = [
        (attempt.index, end)
        for attempt in attempts
        if attempt.stage is stage
        and attempt.finished_at is not None
        and (now - (end := parse_time(attempt.finished_at))).total_seconds() < STREAK_WINDOW_SECONDS
    ]
    if not recent:
        return 0.0
    _, streak = Counter(index for index, _ in recent).most_common(1)[0]
    if streak <= FREE_REPLACEMENTS:
        return 0.0
    delay = min(FIRST_DELAY_SECONDS * 2.0 ** (streak - FREE_REPLACEMENTS - 1), MAX_DELAY_SECONDS)
    newest = max(end for _, end in recent)
    return max(0.0, delay - (now - newest).total_seconds())


def _find_cause(attempt: Attempt) -> tuple[FailureClass | None, str, int | None]:
    return attempt.failure_class, attempt.reason, attempt.checkpoint_step
