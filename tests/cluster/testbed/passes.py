"""Passes over the small job of a table: what is observed of it, and how it comes to its training.

Below: `jobs`, and the plan itself. Above: the tests that tell a job's story pass by pass.
"""

from __future__ import annotations

from datetime import datetime

from llmtrain_api import JobStatus, LLMTrainingJob
from llmtrain_api.records import ProgressRecord, Stage
from llmtrain_operator.plan import plan_job
from llmtrain_operator.plan.types import Observed, ObservedProcess, Plan, ProcessState
from testbed.jobs import observe_process, record_success

RUNNING, WAITING = ProcessState.RUNNING, ProcessState.WAITING
SUCCEEDED, FAILED = ProcessState.SUCCEEDED, ProcessState.FAILED
LEAVING = ProcessState.LEAVING


def with_status(job: LLMTrainingJob, status: JobStatus) -> LLMTrainingJob:
    """Return the job with another status."""
    return job.model_copy(update={"status": status})


def conditions_of(status: JobStatus) -> dict[str, str]:
    """Return each condition's status by its type."""
    return {condition.type.value: condition.status for condition in status.conditions}


def train(index: int, incarnation: int, state: ProcessState, **facts: object) -> ObservedProcess:
    """Return a worker of the train stage as it is observed."""
    return observe_process("tiny", Stage.TRAIN, index, incarnation, state, **facts)


PREPARED = observe_process(
    "tiny", Stage.PREPARE, 0, 0, SUCCEEDED, exit_record=record_success(dataset="abc")
)


def see(*processes: ObservedProcess, progress: ProgressRecord | None = None) -> Observed:
    """Return what is observed once data is prepared."""
    return Observed(processes=(PREPARED, *processes), progress=progress)


def reach_training(job: LLMTrainingJob, now: datetime) -> LLMTrainingJob:
    """Bring the job to where both train workers have been seen running."""
    for observed in (
        Observed(),
        see(),
        see(train(0, 0, RUNNING), train(1, 0, RUNNING)),
    ):
        job = with_status(job, plan_job(job, observed, now).status)
    return job


def names(plan: Plan) -> list[str]:
    """Return the names of the processes that a plan starts."""
    return [process.name for process in plan.start]
