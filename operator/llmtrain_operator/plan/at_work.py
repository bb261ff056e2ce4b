"""A stage at work: every worker has one process, and the status says how far they are.

Below: `workers`, `attempts` (decisions), `status` and `conditions` (how it is said). Above:
`plan_job`, where nothing speaks against going on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from llmtrain_api import JobStatus, LLMTrainingJob
from llmtrain_api.records import Stage
from llmtrain_operator.plan.attempts import Toll
from llmtrain_operator.plan.holding import find_hold
from llmtrain_operator.plan.ladder import delay_replacement
from llmtrain_operator.plan.nodes import allow_again, avoids_too_much
from llmtrain_operator.plan.progress import (
    count_lost_steps,
    count_process_restarts,
    describe_straggler,
    find_record,
    has_rolled_back,
    settle_lost_steps,
)
from llmtrain_operator.plan.stages import PHASE_OF_STAGE
from llmtrain_operator.plan.status import (
    begin_conditions,
    describe_common,
    describe_workers,
    state_active,
    state_knowledge,
)
from llmtrain_operator.plan.types import (
    Event,
    EventKind,
    Observed,
    Plan,
    Process,
    ProcessState,
    tell,
)
from llmtrain_operator.plan.waiting import Waiting, explain_waiting
from llmtrain_operator.plan.workers import Worker, must_run_again

POLL_SECONDS = 15.0
"""How often the progress of a running stage is looked at."""

UNTOLD_STATES = frozenset({ProcessState.WAITING, ProcessState.RUNNING})
"""States of a process at work that nobody has told to leave."""


def plan_stage(
    job: LLMTrainingJob,
    observed: Observed,
    stage: Stage,
    workers: Sequence[Worker],
    toll: Toll,
    now: datetime,
) -> Plan:
    """Let every worker of the stage have one process, and say how far they are."""
    incarnations = dict(toll.incarnations)
    hold = find_hold(job.status, job.spec.run_policy, workers, now)
    avoided = allow_again(workers, toll.avoided, now)
    for worker in workers:
        # Where a pod may run is fixed once it exists: it takes a new one.
        is_misplaced = hold is not None or avoids_too_much(worker, avoided)
        if worker.newest is not None and is_misplaced:
            incarnations[worker.key] = worker.newest.process.incarnation + 1
    workers = [replace(w, incarnation=incarnations.get(w.key, 0)) for w in workers]
    start: list[Process] = []
    delay = delay_replacement(toll.attempts, stage, now)
    for worker in workers:
        if worker.is_live:
            continue
        if must_run_again(worker, workers[0]):
            assert worker.newest is not None
            incarnations[worker.key] = worker.newest.process.incarnation + 1
            start.append(worker.start(incarnations[worker.key]))
        elif worker.newest is None and delay == 0 and hold is None:
            start.append(worker.start(worker.incarnation))
    # An incarnation that was started before its number was written down counts from now on.
    for worker in workers:
        if worker.newest is not None and worker.newest.process.incarnation > worker.incarnation:
            incarnations[worker.key] = worker.newest.process.incarnation

    record = find_record(observed, stage)
    lost_steps = count_lost_steps(job.status.progress, record)
    restarts_within = count_process_restarts(job.status.progress, record)
    conditions = begin_conditions(job, now)
    waiting = explain_waiting(workers, job.spec.workers.image, now)
    if hold is not None:
        waiting = Waiting(reason="Queued", message=hold.message)
    state_active(conditions, stage, workers, waiting)
    state_knowledge(conditions, stage, record)
    last_words = toll.attempts[-1].message if toll.attempts else ""
    nodes = [worker.newest.node if worker.newest is not None else None for worker in workers]
    straggler = describe_straggler(record, job.spec.workers.processes_per_worker, nodes)
    message = waiting.message or straggler
    if delay > 0:
        message = f"{last_words} Trying again in {round(delay)} s."
    status = describe_common(job, observed, toll, now).model_copy(
        update={
            "phase": PHASE_OF_STAGE[stage],
            "stage": stage,
            "message": message,
            "conditions": conditions.list_all(),
            "attempts": list(
                toll.attempts
                if lost_steps is None
                else settle_lost_steps(toll.attempts, lost_steps)
            ),
            "incarnations": incarnations,
            "workers": describe_workers(workers),
            "process_restarts": job.status.process_restarts + restarts_within,
            "group_restarts": job.status.group_restarts + toll.restarts_group,
            "avoided_nodes": list(avoided),
            "held_until": hold.until if hold is not None else None,
        }
    )
    events = list(toll.events)
    if restarts_within and record is not None:
        why = record.last_loss or "their round was lost"
        told = f"Ranks were started anew within their workers: {why}"
        events.append(Event(kind=EventKind.WARNING, reason="RanksRestarted", message=told))
    known = job.status.checkpoint.refused if job.status.checkpoint is not None else ""
    if record is not None and record.checkpoint_refused not in ("", known):
        told = record.checkpoint_refused
        events.append(Event(kind=EventKind.WARNING, reason="CheckpointRefused", message=told))
    if record is not None and has_rolled_back(job.status.progress, record):
        events.append(Event(kind=EventKind.WARNING, reason="RolledBack", message=record.divergence))
    before = job.status.progress
    if straggler and record is not None and (before is None or not before.straggler):
        told = f"{straggler}: {record.straggler}"
        events.append(Event(kind=EventKind.WARNING, reason="Straggler", message=told))
    if toll.restarts_group:
        told = f"All workers are started anew: replacing one did not help: {last_words}"
        events.append(Event(kind=EventKind.WARNING, reason="GroupRestarted", message=told))
    if hold is not None and job.status.held_until is None:
        events.append(Event(kind=EventKind.WARNING, reason="WorkersReleased", message=message))
    if toll.avoided and not avoided:
        names = ", ".join(a.node for a in toll.avoided)
        events.append(tell("NodesAllowedAgain", f"No other node has room: {names} may be used"))
    if job.status.phase is not PHASE_OF_STAGE[stage]:
        staff = "1 worker" if len(workers) == 1 else f"{len(workers)} workers"
        events.append(tell("StageStarted", f"stage {stage}, {staff}"))
    return Plan(
        status=status,
        start=tuple(start),
        remove=(*_list_counted(job.status, observed), *_list_late_tasks(job.status, observed)),
        events=tuple(events),
        requeue_after_seconds=_find_patience(toll, delay),
    )


def _find_patience(toll: Toll, delay: float) -> float:
    """Return the seconds until the next look."""
    if toll.restarts_group:
        return 0.0
    return min(delay, POLL_SECONDS) if delay > 0 else POLL_SECONDS


def _list_counted(status: JobStatus, observed: Observed) -> tuple[Process, ...]:
    """Return the processes that the stored status has done with.

    Live ones whose time is over: they go only once that is written down, so that nobody takes
    them for lost. And failed ones, but for each worker's last, which is kept for its log.
    """
    done = []
    for o in observed.processes:
        present = status.incarnations.get(f"{o.process.stage}-{o.process.index}", 0)
        is_over = o.state in UNTOLD_STATES and o.process.incarnation < present
        is_old = o.state is ProcessState.FAILED and o.process.incarnation < present - 1
        if is_over or is_old:
            done.append(o.process)
    return tuple(done)


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
