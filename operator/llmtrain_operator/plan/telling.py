"""What people are told of a stage at work, as events: the difference between two statuses.

Below: `attempts` (what ended), `progress` (what worker 0 says), `status`. Above: `at_work`, which
has decided by then. Whatever is told here is in the later status, too, so that it is told once.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmtrain_api import JobStatus, ProgressRecord
from llmtrain_operator.plan.attempts import Toll
from llmtrain_operator.plan.progress import has_rolled_back
from llmtrain_operator.plan.types import Event, EventKind, tell


def tell_news(
    before: JobStatus,
    after: JobStatus,
    toll: Toll,
    record: ProgressRecord | None,
    straggler: str,
) -> tuple[Event, ...]:
    """Return what has happened between two statuses of a run at work.

    Args:
        before: the stored status.
        after: the one that takes its place.
        toll: what has ended since, with its own events.
        record: what worker 0 last said.
        straggler: who it is that the others wait for, and where; empty: nobody.
    """
    return (
        *toll.events,
        *_tell_of_ranks(before, after, record, straggler),
        *_tell_of_workers(before, after, toll),
    )


def _tell_of_ranks(
    before: JobStatus, after: JobStatus, record: ProgressRecord | None, straggler: str
) -> Iterator[Event]:
    """Tell what only the ranks themselves know."""
    if record is None:
        return
    if after.process_restarts > before.process_restarts:
        why = record.last_loss or "their round was lost"
        yield _warn("RanksRestarted", f"Ranks were started anew within their workers: {why}")
    known = before.checkpoint.refused if before.checkpoint is not None else ""
    if record.checkpoint_refused not in ("", known):
        yield _warn("CheckpointRefused", record.checkpoint_refused)
    if has_rolled_back(before.progress, record):
        yield _warn("RolledBack", record.divergence)
    if straggler and (before.progress is None or not before.progress.straggler):
        yield _warn("Straggler", f"{straggler}: {record.straggler}")


def _tell_of_workers(before: JobStatus, after: JobStatus, toll: Toll) -> Iterator[Event]:
    """Tell what was decided about the workers."""
    if toll.restarts_group:
        why = toll.attempts[-1].message
        told = f"All workers are started anew: replacing one did not help: {why}"
        yield _warn("GroupRestarted", told)
    if before.size is not None and after.size is not None:
        old, new = before.size.workers, after.size.workers
        if old != new:
            yield tell("Resized", f"From {old} to {new} workers: {after.size.message}")
    if after.held_until is not None and before.held_until is None:
        yield _warn("WorkersReleased", after.message)
    if toll.avoided and not after.avoided_nodes:
        names = ", ".join(avoided.node for avoided in toll.avoided)
        yield tell("NodesAllowedAgain", f"No other node has room: {names} may be used")
    if before.phase is not after.phase and after.workers is not None:
        count = after.workers.desired
        staff = "1 worker" if count == 1 else f"{count} workers"
        yield tell("StageStarted", f"stage {after.stage}, {staff}")


def _warn(reason: str, message: str) -> Event:
    return Event(kind=EventKind.WARNING, reason=reason, message=message)
