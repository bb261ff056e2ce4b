"""What shall be, decided from what is: `plan_job` reads from top to bottom as the story of a job.

Below, in the order of the story: `stages` (where the job is), `workers` (which incarnation of
each should exist), `attempts`, `failures` and `ladder` (what ended, why, and what follows), then
one of `at_work` (with `staffing` and `resizing`), `suspension` and `endings`; they say it by
`status`, `waiting`, `telling`, `conditions` and `ledger`. `types` has the words. Above:
`reconcile`, which observes, asks here, and carries out.

Nothing in this package reads a clock, an environment, a file or a network, and nothing is
remembered between two calls: the same facts give the same plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from llmtrain_api import LLMTrainingJob
from llmtrain_operator.plan.at_work import plan_stage
from llmtrain_operator.plan.attempts import count_toll
from llmtrain_operator.plan.conditions import parse_time
from llmtrain_operator.plan.endings import (
    FINISHED_PHASES,
    plan_completion,
    plan_failure,
    plan_finished,
)
from llmtrain_operator.plan.ledger import charge_usage
from llmtrain_operator.plan.stages import (
    count_extra_workers,
    count_workers,
    find_stage,
    list_passed,
    were_all_there,
)
from llmtrain_operator.plan.status import find_checkpoint_step
from llmtrain_operator.plan.suspension import plan_suspension
from llmtrain_operator.plan.types import Observed, Plan
from llmtrain_operator.plan.waiting import explain_refusals
from llmtrain_operator.plan.workers import Worker, group_workers, has_vanished

__all__ = ["FINISHED_PHASES", "explain_refusals", "misses_workers", "plan_job"]


def plan_job(job: LLMTrainingJob, observed: Observed, now: datetime) -> Plan:
    """Decide what shall be: which processes start and go, what the status says, whom to tell."""
    if job.status.phase in FINISHED_PHASES:
        return plan_finished(job, observed, now)
    plan = _plan_unfinished(job, observed, now)
    ended = plan.status.finished_at
    until = now if ended is None else parse_time(ended)
    usage = charge_usage(job.spec, job.status, plan.status, observed.progress, until)
    return replace(plan, status=plan.status.model_copy(update={"usage": usage}))


def _plan_unfinished(job: LLMTrainingJob, observed: Observed, now: datetime) -> Plan:
    """Decide for a run that has neither succeeded nor failed yet."""
    name, status = job.metadata.name, job.status
    stage = find_stage(status, observed)
    passed = [
        worker
        for done in list_passed(stage)
        for worker in group_workers(name, done, 0, status, observed.processes)
    ]
    workers: Sequence[Worker] = ()
    if stage is not None:
        num_workers, num_extra = count_workers(job, stage), count_extra_workers(job, stage)
        workers = group_workers(
            name, stage, num_workers, status, observed.processes, num_extra=num_extra
        )
    toll = count_toll(
        job,
        workers,
        passed,
        # Of those that were told to leave, none is missed.
        were_all_there=(
            stage is not None and were_all_there(status, stage) and not job.spec.run_policy.suspend
        ),
        checkpoint_step=find_checkpoint_step(status, observed),
        now=now,
    )
    if stage is None:
        return plan_completion(job, observed, toll, now)
    if toll.end is not None:
        return plan_failure(job, observed, stage, toll, toll.end, now)
    if job.spec.run_policy.suspend:
        return plan_suspension(job, observed, stage, workers, toll, now)
    return plan_stage(job, observed, stage, workers, toll, now)


def misses_workers(job: LLMTrainingJob, observed: Observed) -> bool:
    """Tell whether a plan would take a worker for gone only because nothing is seen of it."""
    stage = job.status.stage
    if stage is None or not were_all_there(job.status, stage):
        return False
    num_workers = count_workers(job, stage)
    name, status = job.metadata.name, job.status
    workers = group_workers(name, stage, num_workers, status, observed.processes)
    return any(has_vanished(worker, True) for worker in workers)
