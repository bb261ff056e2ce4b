"""Small jobs and observed processes, for tables of decisions.

Below: the contract and the words of a plan. Above: the tests of the operator.
"""

from __future__ import annotations

from typing import Any

from llmtrain_api import ExitRecord, JobStatus, LLMTrainingJob
from llmtrain_api.records import ExitCode, Stage, StageResult
from llmtrain_operator.plan.types import ObservedProcess, Process, ProcessState


def make_job(
    name: str,
    *,
    replicas: int = 2,
    status: JobStatus | None = None,
    run_policy: dict[str, Any] | None = None,
    elastic: dict[str, Any] | None = None,
) -> LLMTrainingJob:
    """Return a valid job of that many workers."""
    return LLMTrainingJob.model_validate(
        {
            "apiVersion": "llmtrain.dev/v1alpha1",
            "kind": "LLMTrainingJob",
            "metadata": {"name": name, "namespace": "team", "uid": "0123456789abcdef"},
            "spec": {
                "data": {"sources": [{"uri": "s3://corpus/texts/"}]},
                "training": {"steps": 100, "batchSize": 8},
                "workers": {"replicas": replicas, "elastic": elastic},
                "storage": {"uri": "s3://models/team", "endpoint": "http://minio:9000"},
                "runPolicy": run_policy or {},
            },
            "status": (status or JobStatus()).dump(),
        }
    )


def read_tiny_job() -> LLMTrainingJob:
    """Return a job `default/tiny` as a person writes it: only what must be there, two workers."""
    return LLMTrainingJob.model_validate(
        {
            "metadata": {"name": "tiny"},
            "spec": {
                "data": {"sources": [{"uri": "s3://corpus/a.txt"}]},
                "training": {"steps": 10},
                "workers": {"replicas": 2},
                "storage": {"uri": "s3://models/first"},
            },
        }
    )


def observe_process(
    job: str,
    stage: Stage,
    index: int,
    incarnation: int,
    state: ProcessState,
    **facts: Any,
) -> ObservedProcess:
    """Return a process in a state, with further facts of `ObservedProcess` by name."""
    process = Process(job=job, stage=stage, index=index, incarnation=incarnation)
    return ObservedProcess(process=process, state=state, **facts)


def record_success(**result: Any) -> ExitRecord:
    """Return the exit record of a stage that did what it is for."""
    return ExitRecord(
        code=ExitCode.SUCCEEDED,
        reason="Completed",
        message="done",
        result=StageResult(**result),
    )


def record_failure(code: ExitCode, reason: str, message: str = "it broke") -> ExitRecord:
    """Return the exit record of a stage that failed."""
    return ExitRecord(code=code, reason=reason, message=message, next_step="Mend it.")
