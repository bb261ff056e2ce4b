"""Taking note of workers that ended without success, each exactly once.

Below: `workers` finds them, `failures` judges them. Above: `plan_job` starts with this: what has
ended decides what comes next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from llmtrain_api import JobStatus
from llmtrain_api.records import Stage
from llmtrain_api.status import MAX_ATTEMPTS_KEPT, Attempt
from llmtrain_operator.plan.conditions import format_time, parse_time
from llmtrain_operator.plan.failures import Verdict, judge_failure
from llmtrain_operator.plan.types import Event, EventKind, ObservedProcess, ProcessState
from llmtrain_operator.plan.workers import (
    Worker,
    find_uncounted_failures,
    has_vanished,
    list_outlived,
)

FREE_REPLACEMENTS = 2
"""Replacements in a row that are made at once."""
FIRST_DELAY_SECONDS = 5.0
"""Wait before the next one after those; doubles from there."""
MAX_DELAY_SECONDS = 300.0
"""Longest wait between two replacements."""
STREAK_WINDOW_SECONDS = 900.0
"""Failures further apart than this are not in a row."""

MAX_ATTEMPT_MESSAGE_CHARACTERS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Toll:
    """What the newly ended workers change in the status."""

    attempts: tuple[Attempt, ...]
    incarnations: dict[str, int]
    restarts: int
    failures: int
    fatal: Verdict | None
    """A verdict after which no further attempt makes sense."""
    events: tuple[Event, ...]


def count_toll(
    status: JobStatus, workers: Sequence[Worker], *, were_all_there: bool, now: datetime
) -> Toll:
    """Judge every worker that ended without success since the last status."""
    attempts = list(status.attempts)
    incarnations = dict(status.incarnations)
    restarts, failures = status.restarts, status.failures
    fatal: Verdict | None = None
    events: list[Event] = []
    for worker in workers:
        for ended in _list_ended(worker, were_all_there):
            verdict = judge_failure(ended)
            attempts.append(_describe_attempt(ended, verdict, now))
            incarnations[worker.key] = ended.process.incarnation + 1
            restarts += 1
            failures += verdict.counts
            if not verdict.retry and fatal is None:
                fatal = verdict
            events.append(
                Event(kind=EventKind.WARNING, reason=verdict.reason, message=verdict.message)
            )
    return Toll(
        attempts=tuple(attempts[-MAX_ATTEMPTS_KEPT:]),
        incarnations=incarnations,
        restarts=restarts,
        failures=failures,
        fatal=fatal,
        events=tuple(events),
    )


def delay_replacement(attempts: Sequence[Attempt], stage: Stage, now: datetime) -> float:
    """Return the seconds to wait before the next replacement in a stage; 0 is at once.

    Doubles with each failure in a row, so that a store that is down is not hammered; infrastructure
    that took a single pod away costs nothing.
    """
    ends = [
        parse_time(attempt.finished_at)
        for attempt in attempts
        if attempt.stage is stage and attempt.finished_at is not None
    ]
    recent = [end for end in ends if (now - end).total_seconds() < STREAK_WINDOW_SECONDS]
    if len(recent) <= FREE_REPLACEMENTS:
        return 0.0
    delay = min(
        FIRST_DELAY_SECONDS * 2.0 ** (len(recent) - FREE_REPLACEMENTS - 1), MAX_DELAY_SECONDS
    )
    return max(0.0, delay - (now - max(recent)).total_seconds())


def _list_ended(worker: Worker, were_all_there: bool) -> tuple[ObservedProcess, ...]:
    without_trace = [*list_outlived(worker)]
    failed = find_uncounted_failures(worker)
    if not failed and has_vanished(worker, were_all_there):
        without_trace.append(worker.incarnation)
    deleted = tuple(
        ObservedProcess(
            process=worker.start(incarnation), state=ProcessState.FAILED, ended_by="Deleted"
        )
        for incarnation in without_trace
    )
    return tuple(sorted(deleted + failed, key=lambda o: o.process.incarnation))


def _describe_attempt(ended: ObservedProcess, verdict: Verdict, now: datetime) -> Attempt:
    return Attempt(
        stage=ended.process.stage,
        index=ended.process.index,
        incarnation=ended.process.incarnation,
        reason=verdict.reason,
        message=verdict.message[:MAX_ATTEMPT_MESSAGE_CHARACTERS],
        exit_code=ended.exit_code,
        node=ended.node,
        finished_at=format_time(ended.finished_at or now),
    )
