"""The ConfigMap that tells every pod of a job what to do: `run.json`, a `RunConfig`.

Below: `plan.run_config`. Above: `world.cluster`, which applies it before the first pod.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from llmtrain_api import LLMTrainingJob
from llmtrain_api.naming import name_config, name_service, name_worker
from llmtrain_api.records import Stage
from llmtrain_api.run import CA_PATH, CONFIG_PATH, CREDENTIALS_DIRECTORY, Rendezvous, StorageConfig
from llmtrain_operator.plan.run_config import build_run_config
from llmtrain_operator.render.labels import label_job, refer_to_owner
from llmtrain_operator.render.services import has_service

CONFIG_KEY = PurePosixPath(CONFIG_PATH).name


def render_config(job: LLMTrainingJob) -> dict[str, Any]:
    """Return the job's ConfigMap."""
    config = build_run_config(
        job,
        storage=_describe_storage(job),
        rendezvous=Rendezvous(
            leader_host=_name_leader(job, Stage.TRAIN),
            evaluation_leader_host=(
                _name_leader(job, Stage.EVALUATE) if has_service(job, Stage.EVALUATE) else None
            ),
        ),
    )
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name_config(job.metadata.name),
            "namespace": job.metadata.namespace,
            "labels": label_job(job),
            "ownerReferences": [refer_to_owner(job)],
        },
        "data": {CONFIG_KEY: config.model_dump_json(by_alias=True, exclude_none=True, indent=1)},
    }


def _describe_storage(job: LLMTrainingJob) -> StorageConfig:
    storage = job.spec.storage
    return StorageConfig(
        uri=storage.uri,
        endpoint=storage.endpoint,
        region=storage.region,
        credentials_directory=CREDENTIALS_DIRECTORY if storage.credentials_secret else None,
        ca_file=CA_PATH if storage.ca_config_map else None,
    )


def _name_leader(job: LLMTrainingJob, stage: Stage) -> str:
    """Name worker 0 of a stage as every pod of the namespace can look it up."""
    name = job.metadata.name
    return f"{name_worker(name, stage, 0)}.{name_service(name, stage)}"
