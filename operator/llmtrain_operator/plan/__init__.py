"""What shall be, decided from what is: `plan_job` reads from top to bottom as the story of a job.

Below: `types` (the words), `workers`, `stages`, `failures`, `attempts` (decisions), `conditions`,
`status` and `ledger` (how it is said). Above: `reconcile`, which observes, asks here, and carries
out.

Nothing in this package reads a clock, an environment, a file or a network, and nothing is
remembered between two calls: the same facts give the same plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from llmtrain_api import JobStatus, LLMTrainingJob
from llmtrain_api.naming import locate_run
from llmtrain_api.records import Stage
from llmtrain_api.status import ConditionType, Phase, WorkersStatus
from llmtrain_api.usage import Activity
from llmtrain_operator.plan.attempts import Toll, count_toll, delay_replacement
from llmtrain_operator.plan.conditions import ConditionSet, format_time, parse_time
from llmtrain_operator.plan.ledger import charge_usage
from llmtrain_operator.plan.stages import count_workers, find_stage, merge_results
from llmtrain_operator.plan.status import (
    PHASE_OF_STAGE,
    complete_progress,
    count_process_restarts,
    describe_checkpoint,
    describe_progress,
    describe_provenance,
    describe_workers,
    explain_waiting,
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
)
from llmtrain_operator.plan.workers import (
    LIVE_STATES,
    Worker,
    group_workers,
    has_vanished,
    must_run_again,
)

__all__ = ["explain_refusals", "misses_workers", "plan_job"]

POLL_SECONDS = 5.0
"""How often the progress of a running stage is looked at."""

FINISHED_PHASES = frozenset({Phase.SUCCEEDED, Phase.FAILED})


def plan_job(job: LLMTrainingJob, observed: Observed, now: datetime) -> Plan:
    """Decide what shall be: which processes start and go, what the status says, whom to tell."""
    if job.status.phase in FINISHED_PHASES:
        return _plan_finished(job, observed, now)
    plan = _plan_unfinished(job, observed, now)
    usage = charge_usage(job.spec, job.status, plan.status, observed.progress, now)
    return replace(plan, status=plan.status.model_copy(update={"usage": usage}))


def _plan_unfinished(job: LLMTrainingJob, observed: Observed, now: datetime) -> Plan:
    """Decide for a run that has neither succeeded nor failed yet."""
    stage = find_stage(job.status, observed)
    if stage is None:
        return _plan_success(job, observed, now)

    workers = group_workers(
        job.metadata.name,
        stage,
        count_workers(job.spec, stage),
        job.status,
        observed.processes,
    )
    toll = count_toll(
        job.status,
        workers,
        # Of those that were told to leave, none is missed.
        were_all_there=(_were_all_there(job.status, stage) and not job.spec.run_policy.suspend),
        now=now,
    )
    if toll.fatal is not None:
        reason, message = toll.fatal.reason, toll.fatal.message
        return _plan_failure(job, observed, stage, toll, reason, message, now)
    if toll.failures > job.spec.run_policy.restart_limit:
        message = (
            f"{toll.failures} failures are more than runPolicy.restartLimit allows "
            f"({job.spec.run_policy.restart_limit}); the last: {toll.attempts[-1].message}"
        )
        return _plan_failure(job, observed, stage, toll, "RestartLimitReached", message, now)
    if job.spec.run_policy.suspend:
        return _plan_suspension(job, observed, stage, workers, toll, now)
    return _plan_stage(job, observed, stage, workers, toll, now)


def misses_workers(job: LLMTrainingJob, observed: Observed) -> bool:
    """Tell whether a plan would take a worker for gone only because nothing is seen of it."""
    stage = job.status.stage
    if stage is None or not _were_all_there(job.status, stage):
        return False
    num_workers = count_workers(job.spec, stage)
    name, status = job.metadata.name, job.status
    workers = group_workers(name, stage, num_workers, status, observed.processes)
    return any(has_vanished(worker, True) for worker in workers)


def explain_refusals(status: JobStatus, refusals: tuple[str, ...], now: datetime) -> JobStatus:
    """Say in the status that the platform refused to start processes, and why, in its words."""
    if not refusals:
        return status
    message = f"The platform refuses to start workers: {refusals[0]}"
    conditions = ConditionSet(status.conditions, now, max(0, status.observed_generation))
    conditions.set(ConditionType.WORKERS_READY, "False", "CreationRefused", message)
    conditions.set(ConditionType.RECONCILING, "True", "CreationRefused", message)
    usage = status.usage and status.usage.model_copy(update={"activity": Activity.QUEUED})
    return status.model_copy(
        update={"message": message, "conditions": conditions.list_all(), "usage": usage}
    )


def _were_all_there(status: JobStatus, stage: Stage) -> bool:
    """Tell whether the last status had seen every worker of the stage."""
    reconciling = status.find_condition(ConditionType.RECONCILING)
    return (
        status.stage is stage
        and status.phase is PHASE_OF_STAGE[stage]
        and reconciling is not None
        and reconciling.status == "False"
    )


def _plan_stage(
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
    conditions = _begin_conditions(job, now)
    state_active(conditions, stage, workers)
    state_knowledge(conditions, stage, record)
    _, waiting = explain_waiting(workers)
    if delay > 0 and toll.attempts:
        waiting = f"{toll.attempts[-1].message} Trying again in {round(delay)} s."
    status = _write_common(job, observed, toll, now).model_copy(
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
        events.append(_tell("StageStarted", f"stage {stage}, {staff}"))
    return Plan(
        status=status,
        start=tuple(start),
        remove=_list_counted_failures(job.status, observed),
        events=tuple(events),
        requeue_after_seconds=min(delay, POLL_SECONDS) if delay > 0 else POLL_SECONDS,
    )


def _plan_suspension(
    job: LLMTrainingJob,
    observed: Observed,
    stage: Stage,
    workers: Sequence[Worker],
    toll: Toll,
    now: datetime,
) -> Plan:
    """Free the processes. The next ones are new incarnations, and go on from the checkpoint."""
    incarnations = dict(toll.incarnations)
    were_all_there = _were_all_there(job.status, stage)
    for worker in workers:
        if worker.newest is not None and worker.newest.state in LIVE_STATES:
            incarnations[worker.key] = worker.newest.process.incarnation + 1
        elif has_vanished(worker, were_all_there):
            incarnations[worker.key] = worker.incarnation + 1
    remaining = [o for o in observed.processes if o.state in LIVE_STATES]
    conditions = _begin_conditions(job, now)
    conditions.set(ConditionType.SUCCEEDED, "Unknown", "Suspended")
    conditions.set(ConditionType.STALLED, "False", "Suspended")
    conditions.set(ConditionType.WORKERS_READY, "False", "Suspended")
    conditions.set(ConditionType.RECONCILING, "True" if remaining else "False", "Suspended")
    state_knowledge(conditions, stage, None)
    status = _write_common(job, observed, toll, now).model_copy(
        update={
            "phase": Phase.SUSPENDED,
            # The stage starts anew on resumption: nothing of it can have vanished meanwhile.
            "stage": stage,
            "message": "Suspended by runPolicy.suspend; set it to false to go on",
            "conditions": conditions.list_all(),
            "incarnations": incarnations,
            "workers": WorkersStatus(summary="0/0"),
        }
    )
    before = job.status.phase is Phase.SUSPENDED
    return Plan(
        status=status,
        remove=tuple(o.process for o in remaining if o.state is not ProcessState.LEAVING),
        events=() if before else (_tell("Suspended", "The workers are told to save and leave"),),
        requeue_after_seconds=POLL_SECONDS if remaining else None,
    )


def _plan_success(job: LLMTrainingJob, observed: Observed, now: datetime) -> Plan:
    """All stages are done: say so once."""
    conditions = _begin_conditions(job, now)
    message = "The model is trained, exported and evaluated"
    conditions.set(ConditionType.SUCCEEDED, "True", "Completed", message)
    conditions.set(ConditionType.RECONCILING, "False", "Completed")
    conditions.set(ConditionType.STALLED, "False", "Completed")
    conditions.set(ConditionType.WORKERS_READY, "False", "Completed")
    state_knowledge(conditions, None, None)
    status = _write_common(job, observed, None, now).model_copy(
        update={
            "phase": Phase.SUCCEEDED,
            "message": message,
            "conditions": conditions.list_all(),
            "workers": WorkersStatus(summary="0/0"),
            "finished_at": format_time(now),
        }
    )
    return Plan(
        status=status,
        remove=_list_live(observed),
        events=(_tell("Succeeded", message),),
        requeue_after_seconds=float(job.spec.run_policy.ttl_seconds_after_finished),
    )


def _plan_failure(
    job: LLMTrainingJob,
    observed: Observed,
    stage: Stage,
    toll: Toll,
    reason: str,
    message: str,
    now: datetime,
) -> Plan:
    """No further attempt makes sense: stop what still runs, and say why."""
    conditions = _begin_conditions(job, now)
    conditions.set(ConditionType.SUCCEEDED, "False", reason, message)
    conditions.set(ConditionType.RECONCILING, "False", reason)
    conditions.set(ConditionType.STALLED, "True", reason, message)
    conditions.set(ConditionType.WORKERS_READY, "False", reason)
    state_knowledge(conditions, stage, None)
    status = _write_common(job, observed, toll, now).model_copy(
        update={
            "phase": Phase.FAILED,
            "stage": stage,
            "message": message,
            "conditions": conditions.list_all(),
            "workers": WorkersStatus(summary="0/0"),
            "finished_at": format_time(now),
        }
    )
    failed = Event(kind=EventKind.WARNING, reason="Failed", message=message)
    return Plan(
        status=status,
        remove=_list_live(observed),
        events=(*toll.events, failed),
        requeue_after_seconds=float(job.spec.run_policy.ttl_seconds_after_finished),
    )


def _plan_finished(job: LLMTrainingJob, observed: Observed, now: datetime) -> Plan:
    """Nothing changes any more but that processes go: live ones now, ended ones after a while."""
    assert job.status.finished_at is not None
    age = (now - parse_time(job.status.finished_at)).total_seconds()
    left = job.spec.run_policy.ttl_seconds_after_finished - age
    if left > 0:
        return Plan(status=job.status, remove=_list_live(observed), requeue_after_seconds=left)
    everything = tuple(o.process for o in observed.processes if o.state is not ProcessState.LEAVING)
    return Plan(status=job.status, remove=everything)


def _write_common(
    job: LLMTrainingJob, observed: Observed, toll: Toll | None, now: datetime
) -> JobStatus:
    """Return the status with everything that is said alike in every phase."""
    before, spec = job.status, job.spec
    run_uri = locate_run(
        spec.storage.uri, job.metadata.namespace, job.metadata.name, job.metadata.uid
    )
    results = merge_results(before, observed)
    progress = describe_progress(spec, before.progress, find_record(observed, Stage.TRAIN), now)
    if results is not None and results.export_uri is not None:
        progress = complete_progress(spec, progress, results, now)
    update: dict[str, object] = {
        "observed_generation": job.metadata.generation,
        "progress": progress,
        "checkpoint": describe_checkpoint(job, run_uri, observed),
        "results": results,
        "provenance": describe_provenance(
            job, run_uri, results.dataset if results else None, spec.workers.image
        ),
        "started_at": before.started_at or format_time(now),
    }
    if toll is not None:
        update |= {
            "attempts": list(toll.attempts),
            "incarnations": toll.incarnations,
            "restarts": toll.restarts,
            "failures": toll.failures,
        }
    return before.model_copy(update=update)


def _begin_conditions(job: LLMTrainingJob, now: datetime) -> ConditionSet:
    return ConditionSet(job.status.conditions, now, job.metadata.generation)


def _list_live(observed: Observed) -> tuple[Process, ...]:
    doomed = (ProcessState.WAITING, ProcessState.RUNNING)
    return tuple(o.process for o in observed.processes if o.state in doomed)


def _list_counted_failures(status: JobStatus, observed: Observed) -> tuple[Process, ...]:
    """Return failed processes that the stored status has counted, but for each worker's last."""
    return tuple(
        o.process
        for o in observed.processes
        if o.state is ProcessState.FAILED
        and o.process.incarnation
        < status.incarnations.get(f"{o.process.stage}-{o.process.index}", 0) - 1
    )


def _tell(reason: str, message: str) -> Event:
    return Event(kind=EventKind.NORMAL, reason=reason, message=message)
