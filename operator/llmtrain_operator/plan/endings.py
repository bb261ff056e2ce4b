"""The ends of a run: it has succeeded, it has failed, and what is left of it goes after a while.

Below: `status`, `conditions`, `verdict`. Above: `plan_job`. An end is decided once; afterwards the
status does not change any more.
"""

from __future__ import annotations

from datetime import datetime

from llmtrain_api import JobStatus, LLMTrainingJob
from llmtrain_api.records import Stage
from llmtrain_api.status import ConditionType, Phase, WorkersStatus
from llmtrain_operator.plan.attempts import Toll
from llmtrain_operator.plan.conditions import format_time, parse_time
from llmtrain_operator.plan.ladder import End
from llmtrain_operator.plan.status import begin_conditions, describe_common, state_knowledge
from llmtrain_operator.plan.types import (
    Event,
    EventKind,
    Observed,
    Plan,
    Process,
    ProcessState,
    tell,
)
from llmtrain_operator.plan.verdict import find_failed_gates

FINISHED_PHASES = frozenset({Phase.SUCCEEDED, Phase.FAILED})


def plan_completion(job: LLMTrainingJob, observed: Observed, toll: Toll, now: datetime) -> Plan:
    """All stages are done: say so once, and whether the model is what was asked for."""
    common = describe_common(job, observed, toll, now)
    end = find_failed_gates(job.spec.evaluation, common.results)
    ended_at = _find_end(observed, now)
    if end is not None:
        return _end_in_failure(job, observed, common, None, end, toll.events, ended_at, now)
    conditions = begin_conditions(job, now)
    message = "The model is trained, exported and evaluated"
    conditions.set(ConditionType.SUCCEEDED, "True", "Completed", message)
    conditions.set(ConditionType.RECONCILING, "False", "Completed")
    conditions.set(ConditionType.STALLED, "False", "Completed")
    conditions.set(ConditionType.WORKERS_READY, "False", "Completed")
    state_knowledge(conditions, None, None)
    status = common.model_copy(
        update={
            "phase": Phase.SUCCEEDED,
            "message": message,
            "conditions": conditions.list_all(),
            "workers": WorkersStatus(summary="0/0"),
            "finished_at": format_time(ended_at),
        }
    )
    return Plan(
        status=status,
        remove=_list_live(observed),
        events=(*toll.events, tell("Succeeded", message)),
        requeue_after_seconds=float(job.spec.run_policy.ttl_seconds_after_finished),
    )


def plan_failure(
    job: LLMTrainingJob,
    observed: Observed,
    stage: Stage,
    toll: Toll,
    end: End,
    now: datetime,
) -> Plan:
    """No further attempt makes sense: stop what still runs, and say why."""
    common = describe_common(job, observed, toll, now)
    return _end_in_failure(job, observed, common, stage, end, toll.events, now, now)


def _end_in_failure(
    job: LLMTrainingJob,
    observed: Observed,
    common: JobStatus,
    stage: Stage | None,
    end: End,
    events: tuple[Event, ...],
    ended_at: datetime,
    now: datetime,
) -> Plan:
    """Say why a run has failed; `stage` is the one that it failed in, None where all are done."""
    reason, message = end.reason, end.message
    conditions = begin_conditions(job, now)
    conditions.set(ConditionType.SUCCEEDED, "False", reason, message)
    conditions.set(ConditionType.RECONCILING, "False", reason)
    conditions.set(ConditionType.STALLED, "True", reason, message)
    conditions.set(ConditionType.WORKERS_READY, "False", reason)
    state_knowledge(conditions, stage, None)
    status = common.model_copy(
        update={
            "phase": Phase.FAILED,
            "stage": stage or common.stage,
            "message": message,
            "conditions": conditions.list_all(),
            "workers": WorkersStatus(summary="0/0"),
            "finished_at": format_time(ended_at),
        }
    )
    return Plan(
        status=status,
        remove=_list_live(observed),
        events=(*events, Event(kind=EventKind.WARNING, reason="Failed", message=message)),
        requeue_after_seconds=float(job.spec.run_policy.ttl_seconds_after_finished),
    )


def plan_finished(job: LLMTrainingJob, observed: Observed, now: datetime) -> Plan:
    """Nothing changes any more but that processes go: live ones now, ended ones after a while."""
    assert job.status.finished_at is not None
    age = (now - parse_time(job.status.finished_at)).total_seconds()
    left = job.spec.run_policy.ttl_seconds_after_finished - age
    if left > 0:
        return Plan(status=job.status, remove=_list_live(observed), requeue_after_seconds=left)
    everything = tuple(o.process for o in observed.processes if o.state is not ProcessState.LEAVING)
    return Plan(status=job.status, remove=everything)


def _find_end(observed: Observed, now: datetime) -> datetime:
    """Return when the last process ended, which may be long before anybody looked."""
    ends = [o.finished_at for o in observed.processes if o.finished_at is not None]
    return min(max(ends, default=now), now)


def _list_live(observed: Observed) -> tuple[Process, ...]:
    doomed = (ProcessState.WAITING, ProcessState.RUNNING)
    return tuple(o.process for o in observed.processes if o.state in doomed)
