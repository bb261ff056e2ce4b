"""Runs that have ended, as their files: nothing is trained.

Below: the contract, and the keys under which stages leave their records. Above: the tests of
`llmtrain compare`, `search` and `next`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmtrain_api import LLMTrainingJob
from llmtrain_api.run import RUN_RECORD, Rendezvous, StorageConfig
from llmtrain_api.status import JobStatus, Phase
from llmtrain_operator.plan.run_config import build_run_config
from llmtrain_operator.world.job_folder import JobFolder
from llmtrain_trainer.checkpoint.manifest import CURVES
from llmtrain_trainer.dataset.shards import DATASET
from llmtrain_trainer.evaluation.verdict import REPORT_DATA

UID = "0123456789ab"


def make_job(
    name: str, *, annotations: dict[str, str] | None = None, **spec: Any
) -> LLMTrainingJob:
    """A small job; mappings in `spec` are merged into its own."""
    whole: dict[str, Any] = {
        "data": {"sources": [{"uri": "s3://corpus/topics.txt"}], "tokenizer": {"kind": "byte"}},
        "model": {"size": 12_000_000},
        "training": {"steps": 100, "batchSize": 4, "sequenceLength": 16},
        "storage": {"uri": "s3://models"},
    }
    for field, value in spec.items():
        whole[field] = {**whole.get(field, {}), **value}
    return LLMTrainingJob.model_validate(
        {
            "apiVersion": "llmtrain.dev/v1alpha1",
            "kind": "LLMTrainingJob",
            "metadata": {"name": name, "uid": UID, "annotations": annotations or {}},
            "spec": whole,
        }
    )


def write_finished_run(
    store: Path,
    job: LLMTrainingJob,
    *,
    metrics: dict[str, float] | None,
    curve: list[dict[str, float]] | None = None,
    training_seconds: float = 60.0,
    **report: Any,
) -> Path:
    """Write a job that succeeded, and what its stages leave; return the run's folder.

    Args:
        store: the folder that takes the store's place.
        job: as `make_job` gives it.
        metrics: of its evaluation; None: it was not evaluated.
        curve: of its losses.
        training_seconds: of its ledger.
        report: more fields of the report.
    """
    storage = StorageConfig(uri=job.spec.storage.uri, local_root=str(store.absolute()))
    config = build_run_config(job, storage=storage, rendezvous=Rendezvous(leader_host="127.0.0.1"))
    run = store / config.run_uri.removeprefix("s3://")
    curve = curve or [{"step": 100, "loss": 2.0}, {"step": 100, "validationLoss": 2.1}]
    objects: dict[str, Any] = {
        RUN_RECORD: config.describe(),
        DATASET: {"fingerprint": "ab" * 16, "uri": "s3://models/datasets/" + "ab" * 16},
        CURVES: curve,
    }
    if metrics is not None:
        steps = {"step": job.spec.training.steps, "parameters": job.spec.model.size}
        objects[REPORT_DATA] = {**steps, "metrics": metrics, "curve": curve, **report}
    for key, value in objects.items():
        path = run / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value), encoding="utf-8")
    status = JobStatus.model_validate(
        {
            "phase": Phase.SUCCEEDED,
            "usage": {"trainingSeconds": training_seconds, "queuedSeconds": 7.0},
            "results": {"reportUri": f"{config.run_uri}/evaluation/report.html"},
        }
    )
    folder = JobFolder(store, job.metadata.namespace, job.metadata.name)
    folder.path.mkdir(parents=True)
    folder.write_job(job.model_copy(update={"status": status}))
    return run
