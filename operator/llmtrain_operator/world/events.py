"""Kubernetes Events about a job: told once, counted where repeated.

Below: `kube`. Above: `cluster`.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from http import HTTPStatus
from typing import Any

from llmtrain_api import API_VERSION, KIND, LLMTrainingJob
from llmtrain_operator.plan.types import Event
from llmtrain_operator.world.kube import ApiError, KubeClient

MAX_MESSAGE_BYTES = 1024
"""The apiserver refuses longer ones."""
COMPONENT = "llmtrain-operator"


async def publish_event(
    client: KubeClient, job: LLMTrainingJob, event: Event, now: datetime
) -> None:
    """Create an Event; where the same was told before, note that it happened again.

    Its name follows from what it says, so that a repeated pass tells nothing twice.
    """
    path = f"/api/v1/namespaces/{job.metadata.namespace}/events"
    body = render_event(job, event, now)
    try:
        await client.create(path, body)
    except ApiError as error:
        if error.status != HTTPStatus.CONFLICT:
            raise
        change = {"op": "replace", "path": "/lastTimestamp", "value": body["lastTimestamp"]}
        await client.patch(f"{path}/{body['metadata']['name']}", [change])


def render_event(job: LLMTrainingJob, event: Event, now: datetime) -> dict[str, Any]:
    """Return the Event as an object of the core API."""
    said = f"{job.metadata.uid} {event.reason} {event.message}"
    digest = hashlib.sha256(said.encode()).hexdigest()[:16]
    timestamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    message = event.message.encode()[:MAX_MESSAGE_BYTES].decode(errors="ignore")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{job.metadata.name}.{digest}",
            "namespace": job.metadata.namespace,
        },
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": job.metadata.name,
            "namespace": job.metadata.namespace,
            "uid": job.metadata.uid,
        },
        "type": event.kind,
        "reason": event.reason,
        "message": message,
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "firstTimestamp": timestamp,
        "lastTimestamp": timestamp,
        "count": 1,
    }
