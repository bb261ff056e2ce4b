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
from llmtrain_operator.plan.attempts import Toll, delay_replacement
from llmtrain_operator.plan.stages import PHASE_OF_STAGE
from llmtrain_operator.plan.status import (
    begin_conditions,
    count_process_restarts,
    describe_common,
    describe_workers,
    find_record,
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
from llmtrain_operator.plan.waiting import explain_waiting
from llmtrain_operator.plan.workers import Worker, must_run_again

POLL_SECONDS = 15.0
"""How often the progress of a running stage is looked at."""


def plan_stage(
    job: LLMTrainingJob,
    observed: Observed,
    stage: Stage,
    workers: Sequence[Worker],
    toll: Toll,
    now: datetime,
) -> Plan:
    """Let every worker of the stage have one process, and say how far they are."""
    workers = [replace(w, incarnation=toll.incarnations.get(w.key, 0)) for w in workers]
    incarnations = dict(toll.incarnations)
    start: list[Process] = []
    delay = delay_replacement(toll.attempts, stage, now)
    for worker in workers:
        if worker.is_live:
            continue
        if must_run_again(worker, workers[0]):
            assert worker.newest is not None
            incarnations[worker.key] = worker.newest.process.incarnation + 1
            start.append(worker.start(incarnations[worker.key]))
        elif worker.newest is None and delay == 0:
            start.append(worker.start(worker.incarnation))
    # An incarnation that was started before its number was written down counts from now on.
    for worker in workers:
        if worker.newest is not None and worker.newest.process.incarnation > worker.incarnation:
            incarnations[worker.key] = worker.newest.process.incarnation

    record = find_record(observed, stage)
    restarts_within = count_process_restarts(job.status.progress, record)
    conditions = begin_conditions(job, now)
    state_active(conditions, stage, workers)
    state_knowledge(conditions, stage, record)
    _, waiting = explain_waiting(workers)
    if delay > 0 and toll.attempts:
        waiting = f"{toll.attempts[-1].message} Trying again in {round(delay)} s."
    status = describe_common(job, observed, toll, now).model_copy(
        update={
            "phase": PHASE_OF_STAGE[stage],
            "stage": stage,
            "message": waiting,
            "conditions": conditions.list_all(),
            "incarnations": incarnations,
            "workers": describe_workers(workers),
            "process_restarts": job.status.process_restarts + restarts_within,
        }
    )
    events = list(toll.events)
    if restarts_within and record is not None:
        why = record.last_loss or "their round was lost"
        message = f"Ranks were started anew within their workers: {why}"
        events.append(Event(kind=EventKind.WARNING, reason="RanksRestarted", message=message))
    if job.status.phase is not PHASE_OF_STAGE[stage]:
        staff = "1 worker" if len(workers) == 1 else f"{len(workers)} workers"
        events.append(tell("StageStarted", f"stage {stage}, {staff}"))
    return Plan(
        status=status,
        start=tuple(start),
        remove=_list_counted_failures(job.status, observed),
        events=tuple(events),
        requeue_after_seconds=min(delay, POLL_SECONDS) if delay > 0 else POLL_SECONDS,
    )


def _list_counted_failures(status: JobStatus, observed: Observed) -> tuple[Process, ...]:
    """Return failed processes that the stored status has counted, but for each worker's last."""
    return tuple(
        o.process
        for o in observed.processes
        if o.state is ProcessState.FAILED
        and o.process.incarnation
        < status.incarnations.get(f"{o.process.stage}-{o.process.index}", 0) - 1
    )
