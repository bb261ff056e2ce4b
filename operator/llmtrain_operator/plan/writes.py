"""Which status is worth a write, and which can wait.

Below: `types`, `waiting`. Above: `reconcile`, which writes once in a pass at most. Every write
wakes whoever watches jobs, and costs the apiserver several times what a pod costs it.
"""

from __future__ import annotations

from datetime import datetime

from llmtrain_api import JobStatus
from llmtrain_api.status import ConditionType, Phase
from llmtrain_operator.plan.conditions import parse_time
from llmtrain_operator.plan.types import Observed, ProcessState
from llmtrain_operator.plan.waiting import STARTING

GRADUAL_WRITE_SECONDS = 10.0
"""A status in which only what changes gradually has changed is written no oftener than this."""

SILENT_SECONDS = 60.0
"""A job whose processes exist for so long has a status, however many others come."""


def is_worth_writing(before: JobStatus, after: JobStatus, now: datetime) -> bool:
    """Tell whether a status differs enough from the one that is stored to be written now.

    How far a run is, and how many of its workers have started meanwhile, is written once in a
    while; whatever else changes, at once. The ledger alone is not worth it: the next write charges
    the time all the same.
    """
    if _without(before, "usage") == _without(after, "usage"):
        return False
    if _find_essence(before) != _find_essence(after):
        return True
    last = before.usage.updated_at if before.usage else None
    return last is None or (now - parse_time(last)).total_seconds() >= GRADUAL_WRITE_SECONDS


def can_wait(before: JobStatus, after: JobStatus, observed: Observed, now: datetime) -> bool:
    """Tell whether a status says no more than that first processes start, for a minute at most.

    Where a thousand jobs come or are resumed at once, a second status for each costs as much as
    all their pods. Nothing is lost meanwhile: as long as nothing has ended, there is nothing to
    count.
    """
    ready = after.find_condition(ConditionType.WORKERS_READY)
    if before.phase not in (None, Phase.SUSPENDED) or ready is None or ready.reason != STARTING:
        return False
    if any(o.state not in (ProcessState.WAITING, ProcessState.RUNNING) for o in observed.processes):
        return False
    made = [o.created_at for o in observed.processes if o.created_at is not None]
    return (now - min(made, default=now)).total_seconds() < SILENT_SECONDS


def _find_essence(status: JobStatus) -> JobStatus:
    """Return a status without what changes gradually."""
    essence = _without(status, "usage", "progress", "checkpoint")
    workers_ready = status.find_condition(ConditionType.WORKERS_READY)
    if workers_ready is None or workers_ready.reason != STARTING:
        return essence
    conditions = [c.model_copy(update={"message": ""}) for c in essence.conditions]
    workers = essence.workers and essence.workers.model_copy(update={"running": 0, "summary": ""})
    return essence.model_copy(update={"conditions": conditions, "message": "", "workers": workers})


def _without(status: JobStatus, *fields: str) -> JobStatus:
    return status.model_copy(update=dict.fromkeys(fields))
