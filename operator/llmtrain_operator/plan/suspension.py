"""A run that is suspended: its processes save and leave, and the next ones go on from there.

Below: `workers`, `status`. Above: `plan_job`, where `runPolicy.suspend` is set.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from llmtrain_api import LLMTrainingJob
from llmtrain_api.records import Stage
from llmtrain_api.status import ConditionType, Phase, WorkersStatus
from llmtrain_operator.plan.attempts import Toll
from llmtrain_operator.plan.stages import were_all_there
from llmtrain_operator.plan.status import begin_conditions, describe_common, state_knowledge
from llmtrain_operator.plan.types import Observed, Plan, ProcessState, tell
from llmtrain_operator.plan.workers import LIVE_STATES, Worker, has_vanished

POLL_SECONDS = 5.0
"""How often it is looked whether all have left."""


def plan_suspension(
    job: LLMTrainingJob,
    observed: Observed,
    stage: Stage,
    workers: Sequence[Worker],
    toll: Toll,
    now: datetime,
) -> Plan:
    """Free the processes. The next ones are new incarnations, and go on from the checkpoint."""
    incarnations = dict(toll.incarnations)
    were_there = were_all_there(job.status, stage)
    for worker in workers:
        if worker.newest is not None and worker.newest.state in LIVE_STATES:
            incarnations[worker.key] = worker.newest.process.incarnation + 1
        elif has_vanished(worker, were_there):
            incarnations[worker.key] = worker.incarnation + 1
    remaining = [o for o in observed.processes if o.state in LIVE_STATES]
    conditions = begin_conditions(job, now)
    conditions.set(ConditionType.SUCCEEDED, "Unknown", "Suspended")
    conditions.set(ConditionType.STALLED, "False", "Suspended")
    conditions.set(ConditionType.WORKERS_READY, "False", "Suspended")
    conditions.set(ConditionType.RECONCILING, "True" if remaining else "False", "Suspended")
    state_knowledge(conditions, stage, None)
    status = describe_common(job, observed, toll, now).model_copy(
        update={
            "phase": Phase.SUSPENDED,
            # The stage starts anew on resumption: nothing of it can have vanished meanwhile.
            "stage": stage,
            "message": "Suspended by runPolicy.suspend; set it to false to go on",
            "conditions": conditions.list_all(),
            "incarnations": incarnations,
            # Nothing runs that another number of workers would cost: all are tried again.
            "size": None,
            "workers": WorkersStatus(summary="0/0"),
        }
    )
    before = job.status.phase is Phase.SUSPENDED
    return Plan(
        status=status,
        remove=tuple(o.process for o in remaining if o.state is not ProcessState.LEAVING),
        events=() if before else (tell("Suspended", "The workers are told to save and leave"),),
        requeue_after_seconds=POLL_SECONDS if remaining else None,
    )
