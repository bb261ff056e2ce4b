"""How many workers can be had: which find no place, since when, and what the platform says of it.

Below: `workers`. Above: `resizing`, which answers for runs whose number of workers may change.

A worker whose node was lost or drained is replaced first, wherever there is room. So a lost node
shows here as a worker that finds no place, and so does a quota that was lowered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from llmtrain_api import JobStatus
from llmtrain_api.status import ConditionType
from llmtrain_operator.plan.conditions import parse_time
from llmtrain_operator.plan.types import ProcessState
from llmtrain_operator.plan.waiting import CREATION_REFUSED
from llmtrain_operator.plan.workers import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """A worker that finds no place."""

    index: int
    since: datetime
    message: str
    """What the platform says of it."""


def find_shortages(
    workers: Sequence[Worker], status: JobStatus, now: datetime
) -> tuple[Shortage, ...]:
    """Return the workers that find no place, as the scheduler or a refusal says."""
    found = (_find_shortage(worker, status, now) for worker in workers)
    return tuple(shortage for shortage in found if shortage is not None)


def measure_wait(shortages: Sequence[Shortage], now: datetime) -> float:
    """Return the seconds that one of them has waited longest; 0 where there is none."""
    since = min((shortage.since for shortage in shortages), default=now)
    return (now - since).total_seconds()


def list_placed(workers: Sequence[Worker]) -> tuple[Worker, ...]:
    """Return the workers that run, and so surely have a place."""
    return tuple(
        worker
        for worker in workers
        if worker.newest is not None and worker.newest.state is ProcessState.RUNNING
    )


def _find_shortage(worker: Worker, status: JobStatus, now: datetime) -> Shortage | None:
    newest = worker.newest
    if newest is not None:
        if newest.state is not ProcessState.WAITING or newest.waiting_reason != "Unschedulable":
            return None
        return Shortage(
            index=worker.index,
            since=newest.created_at or now,
            message=newest.waiting_message.strip(),
        )
    missing = status.find_condition(ConditionType.RECONCILING)
    if worker.is_live or missing is None or missing.reason != CREATION_REFUSED:
        return None
    # Since workers that should exist do not.
    since = parse_time(missing.last_transition_time)
    return Shortage(index=worker.index, since=since, message=missing.message)
