"""What our children are known by: labels, and the reference to the job that owns them.

Below: the contract. Above: `pods`, `services`, `config`, and `world.pods`, which reads them back.
"""

from __future__ import annotations

from typing import Any

from llmtrain_api import LLMTrainingJob
from llmtrain_api.base import API_VERSION, GROUP, KIND
from llmtrain_api.naming import JOB_LABEL as JOB_LABEL
from llmtrain_api.naming import STAGE_LABEL as STAGE_LABEL
from llmtrain_api.records import Stage
from llmtrain_operator.plan.types import Process

INDEX_LABEL = f"{GROUP}/index"
INCARNATION_LABEL = f"{GROUP}/incarnation"
WORKERS_LABEL = f"{GROUP}/workers"
"""Of pods of which there may be more or fewer: how many they were told that there are."""


def label_job(job: LLMTrainingJob) -> dict[str, str]:
    """Return the labels of every child of the job."""
    return {
        "app.kubernetes.io/name": "llmtrain",
        "app.kubernetes.io/instance": job.metadata.name,
        "app.kubernetes.io/part-of": "llmtrain",
        "app.kubernetes.io/managed-by": "llmtrain-operator",
        JOB_LABEL: job.metadata.name,
    }


def label_process(job: LLMTrainingJob, process: Process) -> dict[str, str]:
    """Return the labels of a worker pod."""
    labels = label_job(job) | {
        "app.kubernetes.io/component": process.stage,
        STAGE_LABEL: process.stage,
        INDEX_LABEL: str(process.index),
        INCARNATION_LABEL: str(process.incarnation),
    }
    if process.workers is not None:
        labels[WORKERS_LABEL] = str(process.workers)
    return labels


def select_stage(job: LLMTrainingJob, stage: Stage) -> dict[str, str]:
    """Return the labels that all pods of a stage share."""
    return {JOB_LABEL: job.metadata.name, STAGE_LABEL: stage}


def refer_to_owner(job: LLMTrainingJob) -> dict[str, Any]:
    """Return the owner reference by which Kubernetes deletes a child after its job."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": job.metadata.name,
        "uid": job.metadata.uid,
        "controller": True,
        # A foreground deletion of the job need not wait for pods that save first.
        "blockOwnerDeletion": False,
    }
