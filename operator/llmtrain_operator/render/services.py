"""The headless Service that gives the workers of a stage their names.

Below: `labels`, `plan.stages`. Above: `pods`, `world.cluster`.
"""

from __future__ import annotations

from typing import Any

from llmtrain_api import LLMTrainingJob
from llmtrain_api.naming import name_service
from llmtrain_api.records import Stage
from llmtrain_api.run import AGENT_PORT
from llmtrain_operator.plan.stages import count_workers
from llmtrain_operator.plan.types import MEETING_STAGES
from llmtrain_operator.render.labels import label_job, refer_to_owner, select_stage


def has_service(job: LLMTrainingJob, stage: Stage) -> bool:
    """Tell whether workers of a stage may look for each other; training may get more of them."""
    return stage is Stage.TRAIN or (stage in MEETING_STAGES and count_workers(job, stage) > 1)


def render_service(job: LLMTrainingJob, stage: Stage) -> dict[str, Any]:
    """Return the Service under which `<worker>.<service>` is the address of a worker's pod."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name_service(job.metadata.name, stage),
            "namespace": job.metadata.namespace,
            "labels": label_job(job),
            "ownerReferences": [refer_to_owner(job)],
        },
        "spec": {
            "clusterIP": "None",
            # Workers meet before they are ready: ready is what they become by meeting.
            "publishNotReadyAddresses": True,
            "selector": select_stage(job, stage),
            "ports": [{"name": "metrics", "port": AGENT_PORT, "targetPort": "metrics"}],
        },
    }
