"""Not holding nodes for a stage whose workers do not all find a place.

Below: the workers. Above: `at_work`. Ranks train together: where two of four find a place, those
two hold their GPUs and wait. After a while all are released and later all tried again, so that
others can work meanwhile. A queue that admits pods in groups (Kueue, coscheduling) saves this;
it is for clusters without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from llmtrain_api import JobStatus
from llmtrain_api.workers import RunPolicy
from llmtrain_operator.plan.conditions import format_time, parse_time
from llmtrain_operator.plan.types import ObservedProcess, ProcessState
from llmtrain_operator.plan.workers import Worker, do_meet

RETRY_SECONDS = 300.0
"""How long nothing is held, before all workers are tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """All workers are released, and none is started for a while."""

    until: str
    """When they are tried again (RFC 3339, UTC)."""
    message: str


def find_hold(
    status: JobStatus, policy: RunPolicy, workers: Sequence[Worker], now: datetime
) -> Hold | None:
    """Return that all workers are to be released, or still are; None where they are wanted."""
    if status.held_until is not None and now < parse_time(status.held_until):
        return Hold(until=status.held_until, message=status.message)
    if not do_meet(workers):
        return None
    unplaced = [w.newest for w in workers if w.newest is not None and _is_unplaced(w.newest)]
    placed = sum(w.newest is not None and w.newest.state is ProcessState.RUNNING for w in workers)
    since = max((o.created_at for o in unplaced if o.created_at is not None), default=now)
    limit = policy.placement_timeout_seconds
    if not unplaced or not placed or (now - since).total_seconds() < limit:
        return None
    until = format_time(now + timedelta(seconds=RETRY_SECONDS))
    return Hold(
        until=until,
        message=f"{len(unplaced)} of {len(workers)} workers found no place within {limit} s "
        f"(runPolicy.placementTimeoutSeconds): {unplaced[0].waiting_message.strip()} The "
        f"{placed} that had one were released; all are tried again at {until}.",
    )


def _is_unplaced(process: ObservedProcess) -> bool:
    return process.state is ProcessState.WAITING and process.waiting_reason == "Unschedulable"
