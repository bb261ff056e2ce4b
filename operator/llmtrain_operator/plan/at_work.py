"""A stage at work: every worker has one process, and the status says how far they are.

Below: `staffing` (who starts and goes), `waiting` and `progress` (what is known), `status` and
`telling` (how it is said). Above: `plan_job`, where nothing speaks against going on.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from llmtrain_api import LLMTrainingJob
from llmtrain_api.records import Stage
from llmtrain_operator.plan.attempts import Toll
from llmtrain_operator.plan.progress import (
    count_lost_steps,
    count_process_restarts,
    describe_straggler,
    find_record,
    settle_lost_steps,
)
from llmtrain_operator.plan.staffing import Staffing, staff_stage
from llmtrain_operator.plan.stages import PHASE_OF_STAGE
from llmtrain_operator.plan.status import (
    begin_conditions,
    describe_common,
    describe_workers,
    state_active,
    state_knowledge,
)
from llmtrain_operator.plan.telling import tell_news
from llmtrain_operator.plan.types import Observed, Plan
from llmtrain_operator.plan.waiting import STARTING, Waiting, explain_waiting
from llmtrain_operator.plan.workers import Worker

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
    staffing = staff_stage(job, observed, stage, workers, toll, now)
    members, sizing = staffing.members, staffing.sizing
    record = find_record(observed, stage)
    lost_steps = count_lost_steps(job.status.progress, record)
    restarts_within = count_process_restarts(job.status.progress, record)
    waiting = _explain(job, staffing, now)
    nodes = [worker.newest.node if worker.newest is not None else None for worker in members]
    straggler = describe_straggler(record, job.spec.workers.processes_per_worker, nodes)
    conditions = begin_conditions(job, now)
    state_active(conditions, stage, members, waiting, fewer=sizing.message)
    state_knowledge(conditions, stage, record)
    attempts = toll.attempts
    if lost_steps is not None:
        attempts = settle_lost_steps(attempts, lost_steps)
    status = describe_common(job, observed, toll, now).model_copy(
        update={
            "phase": PHASE_OF_STAGE[stage],
            "stage": stage,
            "message": _describe_state(staffing, toll, waiting, straggler),
            "conditions": conditions.list_all(),
            "attempts": list(attempts),
            "incarnations": staffing.incarnations,
            "workers": describe_workers(members, sizing.num_wanted),
            "size": sizing.size or job.status.size,
            "process_restarts": job.status.process_restarts + restarts_within,
            "group_restarts": job.status.group_restarts + toll.restarts_group,
            "avoided_nodes": list(staffing.avoided),
            "held_until": staffing.hold.until if staffing.hold is not None else None,
        }
    )
    return Plan(
        status=status,
        start=staffing.start,
        remove=staffing.remove,
        events=tell_news(job.status, status, toll, record, straggler),
        requeue_after_seconds=_find_patience(staffing, toll),
    )


def _explain(job: LLMTrainingJob, staffing: Staffing, now: datetime) -> Waiting:
    """Say what those that should work together wait for."""
    if staffing.hold is not None:
        return Waiting(reason="Queued", message=staffing.hold.message)
    if staffing.num_leaving and any(worker.newest is None for worker in staffing.members):
        left, number = staffing.num_leaving, staffing.sizing.num_members
        told = f"the workers of before save and leave ({left} are left); then {number} start"
        return Waiting(reason=STARTING, message=told)
    return explain_waiting(staffing.members, job.spec.workers.image, now)


def _describe_state(staffing: Staffing, toll: Toll, waiting: Waiting, straggler: str) -> str:
    """Return the message of the status."""
    if staffing.delay_seconds > 0:
        last_words = toll.attempts[-1].message
        return f"{last_words} Trying again in {round(staffing.delay_seconds)} s."
    if staffing.hold is not None:
        return staffing.hold.message
    said = (waiting.message or straggler, staffing.sizing.message)
    return " ".join(text for text in said if text)


def _find_patience(staffing: Staffing, toll: Toll) -> float:
    """Return the seconds until the next look."""
    if toll.restarts_group or staffing.sizing.is_change:
        return 0.0
    times = (staffing.delay_seconds, staffing.sizing.look_again_seconds)
    return min([POLL_SECONDS, *(seconds for seconds in times if seconds)])
