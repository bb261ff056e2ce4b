"""How many workers train together, where that may change: fewer on request or for want of room.

Below: `capacity` (who finds no place). Above: `staffing`, which lets every worker know, and
`at_work`, which says it.

A run with `workers.elastic` begins with `workers.replicas`. Where workers find no place for
`graceSeconds`, the others go on without them; where fewer are asked for, at once. When there may
be more again, they are started beside those that train and wait for a place, which costs nothing;
once they have it, all begin anew together. So a run never stops training on a mere hope. The
global batch is the same for every size, so only sizes whose ranks divide it are allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from llmtrain_api import JobSpec, LLMTrainingJob
from llmtrain_api.naming import name_selector
from llmtrain_api.records import Stage
from llmtrain_api.size import ElasticSpec, SizeStatus
from llmtrain_operator.plan.capacity import Shortage, find_shortages, list_placed, measure_wait
from llmtrain_operator.plan.conditions import format_time, parse_time
from llmtrain_operator.plan.workers import Worker

AS_ASKED = "AsAsked"
NO_ROOM = "NoRoom"
"""Why there are so many workers."""

MAX_SIZES_NAMED = 8
MAX_SIZE_MESSAGE_CHARACTERS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """How many workers there shall be."""

    num_members: int
    """Workers that train together."""

    num_candidates: int = 0
    """Further workers that may wait for a place beside them."""

    size: SizeStatus | None = None
    """What the status says of it; None where the number cannot change."""

    message: str = ""
    """What people should know while it is not the number that was asked for."""

    is_change: bool = False
    """It is another number than before: all begin anew."""

    look_again_seconds: float | None = None
    """When time alone may change it."""

    @property
    def num_wanted(self) -> int:
        """Workers that are asked for."""
        return self.num_members if self.size is None else self.size.wanted

    def find_told(self, index: int) -> int | None:
        """Return how many workers a new process is told that there are; None: as the spec says."""
        if self.size is None:
            return None
        return self.num_members if index < self.num_members else self.size.wanted

    def must_leave(self, worker: Worker) -> bool:
        """Tell whether a worker's process is not wanted, or was told of another number."""
        if self.size is None or worker.newest is None:
            return False
        if worker.index >= self.num_members + self.num_candidates:
            return True
        return worker.newest.process.workers not in (None, self.find_told(worker.index))


def decide_size(
    job: LLMTrainingJob, stage: Stage, workers: Sequence[Worker], now: datetime
) -> Sizing:
    """Decide how many workers of a stage train together.

    Args:
        job: the job, with the size that was decided before in its status.
        stage: where it is; only training has more than one worker.
        workers: those that train by that size, then any further ones.
        now: the time.
    """
    spec = job.spec
    elastic = spec.workers.elastic
    if elastic is None or stage is not Stage.TRAIN:
        return Sizing(num_members=sum(not worker.is_extra for worker in workers))
    size = _take_up(job, now)
    members, others = workers[: size.workers], workers[size.workers : size.wanted]
    if any(worker.has_succeeded for worker in members):
        return Sizing(num_members=size.workers, size=size)  # it is as good as done
    if size.workers > size.wanted:
        why = f"workers.replicas is {size.wanted}."
        return _change(size, size.wanted, AS_ASKED, why, elastic, now)
    if shortages := find_shortages(members, job.status, now):
        return _do_without(spec, elastic, size, shortages, now)
    if size.workers == size.wanted:
        if size.reason != AS_ASKED:  # as many as there was room for is what is asked for now
            size = size.model_copy(update={"reason": AS_ASKED, "message": ""})
        return Sizing(num_members=size.workers, size=size)
    until = _count_seconds_until(size.tries_more_at, now)
    if until > 0:
        message = _describe_fewer(size)
        return Sizing(
            num_members=size.workers, size=size, message=message, look_again_seconds=until
        )
    return _try_more(spec, elastic, size, others, now)


def list_allowed_sizes(spec: JobSpec) -> tuple[int, ...]:
    """Return the numbers of workers that may train, the greatest first."""
    workers = spec.workers
    least = workers.elastic.min_replicas if workers.elastic is not None else workers.replicas
    return tuple(
        number
        for number in range(workers.replicas, least - 1, -1)
        if spec.training.global_batch % workers.count_readers(number) == 0
    )


def _take_up(job: LLMTrainingJob, now: datetime) -> SizeStatus:
    """Return the size as it was decided before, with what is asked for now."""
    wanted = job.spec.workers.replicas
    before = job.status.size
    if before is None:
        return SizeStatus(
            workers=wanted,
            wanted=wanted,
            reason=AS_ASKED,
            since=format_time(now),
            selector=name_selector(job.metadata.name, Stage.TRAIN),
        )
    if before.wanted == wanted:
        return before
    # Somebody has asked for another number: that is tried at once.
    return before.model_copy(update={"wanted": wanted, "tries_more_at": None})


def _do_without(
    spec: JobSpec,
    elastic: ElasticSpec,
    size: SizeStatus,
    shortages: Sequence[Shortage],
    now: datetime,
) -> Sizing:
    """Go on without the workers that find no place, once they have had their time."""
    waited, grace = measure_wait(shortages, now), elastic.grace_seconds
    if waited < grace:
        return Sizing(num_members=size.workers, size=size, look_again_seconds=grace - waited)
    room = size.workers - len(shortages)
    fitting = [number for number in list_allowed_sizes(spec) if number <= room]
    if fitting:
        why = (
            f"{len(shortages)} of {size.workers} workers found no place within {grace} s "
            f"(workers.elastic.graceSeconds): {_end(shortages[0].message)}"
        )
        return _change(size, fitting[0], NO_ROOM, why, elastic, now)
    message = f"There is room for {room}, and {_name_sizes(spec)} workers may train."
    return Sizing(num_members=size.workers, size=size, message=message)


def _try_more(
    spec: JobSpec,
    elastic: ElasticSpec,
    size: SizeStatus,
    others: Sequence[Worker],
    now: datetime,
) -> Sizing:
    """Have further workers wait for a place; take those in that have found one."""
    placed = list_placed(others)
    if placed and len(placed) == len(others):
        why = f"workers.replicas is {size.wanted}, and there is room for all."
        return _change(size, size.wanted, AS_ASKED, why, elastic, now)
    waiting = Sizing(
        num_members=size.workers,
        num_candidates=size.wanted - size.workers,
        size=size,
        message=_describe_fewer(size),
    )
    if not placed:
        return waiting
    # Some have a place and hold it for nothing: that must not last.
    began = [w.newest.started_at or w.newest.created_at or now for w in placed if w.newest]
    left = elastic.grace_seconds - (now - min(began)).total_seconds()
    if left > 0:
        return Sizing(
            num_members=waiting.num_members,
            num_candidates=waiting.num_candidates,
            size=size,
            message=waiting.message,
            look_again_seconds=left,
        )
    room = size.workers + len(placed)
    best = next((number for number in list_allowed_sizes(spec) if number <= room), size.workers)
    if best > size.workers:
        why = f"there is room for {room} of {size.wanted} workers."
        return _change(size, best, NO_ROOM, why, elastic, now)
    later = size.model_copy(update={"tries_more_at": _add(now, elastic.snooze_seconds)})
    return Sizing(num_members=size.workers, size=later, message=_describe_fewer(later))


def _change(
    size: SizeStatus, number: int, reason: str, why: str, elastic: ElasticSpec, now: datetime
) -> Sizing:
    changed = size.model_copy(
        update={
            "workers": number,
            "reason": reason,
            "message": why[:MAX_SIZE_MESSAGE_CHARACTERS],
            "since": format_time(now),
            "tries_more_at": _add(now, elastic.snooze_seconds) if number < size.wanted else None,
        }
    )
    return Sizing(
        num_members=number, size=changed, message=_describe_fewer(changed), is_change=True
    )


def _describe_fewer(size: SizeStatus) -> str:
    """Say that fewer workers train than are asked for, and what is done about it."""
    if size.workers >= size.wanted:
        return ""
    then = "" if size.tries_more_at is None else f", from {size.tries_more_at} on"
    why = f" since {size.message}" if size.reason == NO_ROOM else "."
    return (
        f"{size.workers} of {size.wanted} workers train{why} The others join as soon as there is "
        f"room for them{then}."
    )


def _name_sizes(spec: JobSpec) -> str:
    """Name the allowed numbers of workers, the greatest first."""
    numbers = [str(number) for number in list_allowed_sizes(spec)]
    named = numbers[:MAX_SIZES_NAMED]
    least = spec.workers.elastic.min_replicas if spec.workers.elastic is not None else 1
    more = ", …" if len(numbers) > len(named) else ""
    return (
        f"{', '.join(named)}{more} (at least workers.elastic.minReplicas, {least}, and such that "
        f"the ranks divide training.batchSize, {spec.training.global_batch})"
    )


def _count_seconds_until(moment: str | None, now: datetime) -> float:
    return 0.0 if moment is None else (parse_time(moment) - now).total_seconds()


def _add(now: datetime, seconds: float) -> str:
    return format_time(now + timedelta(seconds=seconds))


def _end(text: str) -> str:
    """End what somebody else wrote as a sentence."""
    return text if text.endswith((".", "!", "?")) else f"{text}."
