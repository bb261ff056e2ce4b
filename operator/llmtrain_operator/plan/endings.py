"""The ends of a run: it has succeeded, it has failed, and what is left of it goes after a while.

Below: `status`, `conditions`. Above: `plan_job`. An end is decided once; afterwards the status
does not change any more.
"""

from __future__ import annotations

from datetime import datetime

from llmtrain_api import LLMTrainingJob
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

FINISHED_PHASES = frozenset({Phase.SUCCEEDED, Phase.FAILED})


def plan_success(job: LLMTrainingJob, observed: Observed, now: datetime) -> Plan:
    """All stages are done: say so once."""
    conditions = begin_conditions(job, now)
    message = "The model is trained, exported and evaluated"
    conditions.set(ConditionType.SUCCEEDED, "True", "Completed", message)
    conditions.set(ConditionType.RECONCILING, "False", "Completed")
    conditions.set(ConditionType.STALLED, "False", "Completed")
    conditions.set(ConditionType.WORKERS_READY, "False", "Completed")
    state_knowledge(conditions, None, None)
    status = describe_common(job, observed, None, now).model_copy(
        update={
            "phase": Phase.SUCCEEDED,
            "message": message,
            "conditions": conditions.list_all(),
            "workers": WorkersStatus(summary="0/0"),
            "finished_at": format_time(_find_end(observed, now)),
        }
    )
    return Plan(
        status=status,
        remove=_list_live(observed),
        events=(tell("Succeeded", message),),
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
    reason, message = end.reason, end.message
    conditions = begin_conditions(job, now)
    conditions.set(ConditionType.SUCCEEDED, "False", reason, message)
    conditions.set(ConditionType.RECONCILING, "False", reason)
    conditions.set(ConditionType.STALLED, "True", reason, message)
    conditions.set(ConditionType.WORKERS_READY, "False", reason)
    state_knowledge(conditions, stage, None)
    status = describe_common(job, observed, toll, now).model_copy(
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
