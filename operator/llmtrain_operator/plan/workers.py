"""Which incarnation of each worker should exist. Never two of one worker at once.

Below: `types`. Above: `plan_job`. A worker's incarnation grows when the present one has ended;
the next one starts when the present one is surely gone or over.

The status remembers only the number (`status.incarnations`), written together with the
failure that raised it. So a process whose incarnation is below that number has been counted,
one at or above it has not, and an operator that is killed between any two writes counts each
failure exactly once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from llmtrain_api.records import Stage
from llmtrain_api.status import JobStatus
from llmtrain_operator.plan.types import (
    MEETING_STAGES,
    ObservedProcess,
    Process,
    ProcessState,
)

LIVE_STATES = frozenset({ProcessState.WAITING, ProcessState.RUNNING, ProcessState.LEAVING})
"""States in which a process is, or may still be, at work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One index of a stage: its incarnations that can be seen, and the number it is at."""

    job: str
    stage: Stage
    index: int
    incarnation: int
    """The incarnation that the status counts it at."""
    seen: tuple[ObservedProcess, ...]
    """Its processes, oldest incarnation first."""
    is_extra: bool = False
    """It does not train yet: it may wait beside those that do (see `resizing`)."""

    @property
    def key(self) -> str:
        """Its name in `status.incarnations`."""
        return f"{self.stage}-{self.index}"

    @property
    def newest(self) -> ObservedProcess | None:
        """The process of the highest incarnation, unless that has been counted as ended."""
        if self.seen and self.seen[-1].process.incarnation >= self.incarnation:
            return self.seen[-1]
        return None

    @property
    def is_live(self) -> bool:
        """Some incarnation of it is, or may still be, at work."""
        return any(process.state in LIVE_STATES for process in self.seen)

    @property
    def has_succeeded(self) -> bool:
        """Its newest incarnation did what it was for."""
        return self.newest is not None and self.newest.state is ProcessState.SUCCEEDED

    def start(self, incarnation: int, told: int | None = None) -> Process:
        """Name the process of an incarnation of this worker, told of so many workers."""
        return Process(
            job=self.job,
            stage=self.stage,
            index=self.index,
            incarnation=incarnation,
            workers=told,
        )


def group_workers(
    job: str,
    stage: Stage,
    num_workers: int,
    status: JobStatus,
    processes: Iterable[ObservedProcess],
    *,
    num_extra: int = 0,
) -> tuple[Worker, ...]:
    """Return the workers of a stage, by index, each with the processes that can be seen.

    The first `num_workers` work together. After them come `num_extra` that may join, and whoever
    else there is: of a greater number that was asked for before.
    """
    present = [observed for observed in processes if observed.process.stage is stage]
    last = max((observed.process.index for observed in present), default=0)
    indices = range(max(num_workers + num_extra, last + 1))
    seen: dict[int, list[ObservedProcess]] = {index: [] for index in indices}
    for observed in present:
        seen[observed.process.index].append(observed)
    return tuple(
        Worker(
            job=job,
            stage=stage,
            index=index,
            incarnation=status.incarnations.get(f"{stage}-{index}", 0),
            seen=tuple(sorted(found, key=lambda o: o.process.incarnation)),
            is_extra=index >= num_workers,
        )
        for index, found in seen.items()
    )


def find_uncounted_failures(worker: Worker) -> tuple[ObservedProcess, ...]:
    """Return the worker's failed processes that no status has counted yet."""
    return tuple(
        observed
        for observed in worker.seen
        if observed.state is ProcessState.FAILED
        and observed.process.incarnation >= worker.incarnation
    )


def list_outlived(worker: Worker) -> tuple[int, ...]:
    """Return uncounted incarnations that left no trace but that a later one took their place."""
    if worker.newest is None:
        return ()
    seen = {observed.process.incarnation for observed in worker.seen}
    uncounted = range(worker.incarnation, worker.newest.process.incarnation)
    return tuple(incarnation for incarnation in uncounted if incarnation not in seen)


def has_vanished(worker: Worker, were_all_there: bool) -> bool:
    """Tell whether the worker's present incarnation was there once and left without a trace."""
    is_missed = were_all_there and not worker.is_extra
    return is_missed and worker.newest is None and not worker.is_live


def do_meet(workers: Sequence[Worker]) -> bool:
    """Tell whether the workers of a stage are several that can only work all together."""
    return len(workers) > 1 and workers[0].stage in MEETING_STAGES


def must_run_again(worker: Worker, leader: Worker) -> bool:
    """Tell whether a worker that succeeded is needed anew, since the leader was replaced.

    Ranks train together: where worker 0 has to repeat the end of the stage, the others are
    needed as well.
    """
    ended, lead = worker.newest, leader.newest
    if ended is None or not worker.has_succeeded or not do_meet((leader, worker)):
        return False
    if worker.index == leader.index:
        return False
    if lead is None or lead.state not in LIVE_STATES:
        return leader.incarnation > 0 and not leader.has_succeeded
    return _is_before(ended.finished_at, lead.created_at)


def _is_before(earlier: datetime | None, later: datetime | None) -> bool:
    return earlier is not None and later is not None and earlier < later
