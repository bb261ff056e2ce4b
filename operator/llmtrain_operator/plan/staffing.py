"""Which processes of a stage start, and which are to go: every worker has one, of the right kind.

Below: `resizing` (how many workers), `holding`, `nodes`, `ladder` (what speaks against starting),
`workers` (incarnations). Above: `at_work`, which says what was decided here.

Whoever is to go has its number raised in the status, and goes in the pass after that: so nobody
takes it for lost, wherever the operator is killed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from llmtrain_api import JobStatus, LLMTrainingJob
from llmtrain_api.records import Stage
from llmtrain_api.status import AvoidedNode
from llmtrain_operator.plan.attempts import Toll
from llmtrain_operator.plan.failures import NODE_LOST
from llmtrain_operator.plan.holding import Hold, find_hold
from llmtrain_operator.plan.ladder import delay_replacement
from llmtrain_operator.plan.nodes import allow_again, avoids_too_much
from llmtrain_operator.plan.resizing import Sizing, decide_size
from llmtrain_operator.plan.types import Observed, Process, ProcessState
from llmtrain_operator.plan.workers import LIVE_STATES, Worker, must_run_again

UNTOLD_STATES = frozenset({ProcessState.WAITING, ProcessState.RUNNING})
"""States of a process at work that nobody has told to leave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Staffing:
    """Who works at a stage, and who shall."""

    members: tuple[Worker, ...]
    """The workers that work together."""
    sizing: Sizing
    incarnations: dict[str, int]
    start: tuple[Process, ...]
    remove: tuple[Process, ...]
    hold: Hold | None
    """All are released for a while."""
    avoided: tuple[AvoidedNode, ...]
    """Nodes to keep away from."""
    delay_seconds: float
    """Until failed ones are replaced."""
    num_leaving: int
    """Processes of another number of workers that save and leave before any other starts."""


def staff_stage(
    job: LLMTrainingJob,
    observed: Observed,
    stage: Stage,
    workers: Sequence[Worker],
    toll: Toll,
    now: datetime,
) -> Staffing:
    """Let every worker of the stage have one process.

    `workers` are those that the status counts, then any further ones that may wait beside them.
    """
    incarnations = dict(toll.incarnations)
    sizing = decide_size(job, stage, workers, now)
    members = workers[: sizing.num_members]
    hold = None
    if not sizing.is_change:
        hold = find_hold(job.status, job.spec.run_policy, members, now)
    avoided = allow_again(members, toll.avoided, now)
    for worker in workers:
        # Where a pod may run, and with how many, is fixed once it exists: it takes a new one.
        is_misplaced = avoids_too_much(worker, avoided) or sizing.must_leave(worker)
        if worker.newest is not None and (hold is not None or is_misplaced):
            incarnations[worker.key] = worker.newest.process.incarnation + 1
    workers = [replace(w, incarnation=incarnations.get(w.key, 0)) for w in workers]
    delay = delay_replacement(toll.attempts, stage, now)
    num_leaving = 0 if sizing.size is None else _count_leaving(observed, stage, incarnations)
    wanted = workers[: sizing.num_members + sizing.num_candidates]
    start: list[Process] = []
    for worker in wanted:
        if worker.is_live or num_leaving:
            continue
        told = sizing.find_told(worker.index)
        if must_run_again(worker, workers[0]):
            assert worker.newest is not None
            incarnations[worker.key] = worker.newest.process.incarnation + 1
            start.append(worker.start(incarnations[worker.key], told))
        elif worker.newest is None and delay == 0 and hold is None:
            start.append(worker.start(worker.incarnation, told))
    # An incarnation that was started before its number was written down counts from now on.
    for worker in workers:
        if worker.newest is not None and worker.newest.process.incarnation > worker.incarnation:
            incarnations[worker.key] = worker.newest.process.incarnation
    return Staffing(
        members=tuple(workers[: sizing.num_members]),
        sizing=sizing,
        incarnations=incarnations,
        start=tuple(start),
        remove=(
            *_list_counted(job.status, observed),
            *_list_late_tasks(job.status, observed),
            *_list_spare(job.status, stage, observed),
        ),
        hold=hold,
        avoided=tuple(avoided),
        delay_seconds=delay,
        num_leaving=num_leaving,
    )


def _count_leaving(observed: Observed, stage: Stage, incarnations: Mapping[str, int]) -> int:
    """Count the processes that are done with, and still at work.

    Of another number of workers, they must not meet those of the present one.
    """
    return sum(
        o.process.stage is stage
        and o.state in LIVE_STATES
        and o.process.incarnation < incarnations.get(f"{stage}-{o.process.index}", 0)
        for o in observed.processes
    )


def _list_late_tasks(status: JobStatus, observed: Observed) -> tuple[Process, ...]:
    """Return tasks of preparation that are there still while the stored status is beyond it.

    The data is there, so that they have nothing to do; one that waits for a place would get it
    only to find that out.
    """
    if status.stage in (None, Stage.PREPARE):
        return ()
    return tuple(
        o.process
        for o in observed.processes
        if o.process.stage is Stage.PREPARE and o.state in UNTOLD_STATES
    )


def _list_spare(status: JobStatus, stage: Stage, observed: Observed) -> tuple[Process, ...]:
    """Return the processes that waited to train beside others, where training is done."""
    if status.size is None or stage is Stage.TRAIN:
        return ()
    return tuple(
        o.process
        for o in observed.processes
        if o.process.stage is Stage.TRAIN
        and o.process.index >= status.size.workers
        and o.state in UNTOLD_STATES
    )


def _list_counted(status: JobStatus, observed: Observed) -> tuple[Process, ...]:
    """Return the processes that the stored status has done with.

    Live ones whose time is over: they go only once that is written down, so that nobody takes
    them for lost. And failed ones, but for each worker's last, which is kept for its log. Of a
    lost node nobody reads it any more; but as long as the API knows a pod there as leaving, peers
    find its address where they look for who took its place.
    """
    done = []
    for o in observed.processes:
        present = status.incarnations.get(f"{o.process.stage}-{o.process.index}", 0)
        is_over = o.state in UNTOLD_STATES and o.process.incarnation < present
        is_old = o.state is ProcessState.FAILED and o.process.incarnation < present - 1
        is_lost = o.ended_by == NODE_LOST and o.process.incarnation < present
        if is_over or is_old or is_lost:
            done.append(o.process)
    return tuple(done)
