"""What Kubernetes warns of pods that do not start, read for all jobs of a namespace at once.

Below: `kube`. Above: `inquiries` asks about single pods. The apiserver keeps no index and no cache
of Events: to find those of one pod it reads every Event of the namespace. Asked for each of 1,000
jobs that start together, that was more than half of all its work.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from llmtrain_operator.world.kube import KubeClient

FRESH_SECONDS = 2.0
"""Warnings that were read so long ago are read again before they are told."""
REST_FACTOR = 20.0
"""A namespace is read again after so many times the seconds that reading took: where it holds very
many Events, that is a twentieth of one server's time at most."""
OF_PODS = "involvedObject.kind=Pod,type=Warning,reason!=FailedScheduling"
"""A pod that is asked about has a node: what the scheduler complained of before is over."""


@dataclass(slots=True)
class _Reading:
    """The warnings of a namespace, as they were read last."""

    messages: dict[str, str] = field(default_factory=dict)
    """The newest of each pod, by its uid."""
    stale_at: float = 0.0
    """Event loop's clock."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class PodWarnings:
    """Reads the Warning Events of pods, one namespace at a time."""

    def __init__(self, client: KubeClient) -> None:
        """Read through `client`."""
        self._client = client
        self._readings: dict[str, _Reading] = defaultdict(_Reading)

    async def find(self, namespace: str, pod_uid: str) -> str | None:
        """Return the newest warning of a pod; None where there is none."""
        reading = self._readings[namespace]
        async with (
            reading.lock
        ):  # who comes while it is read waits for it, and reads no second time
            if asyncio.get_running_loop().time() >= reading.stale_at:
                await self._read(namespace, reading)
        return reading.messages.get(pod_uid)

    async def _read(self, namespace: str, reading: _Reading) -> None:
        began = asyncio.get_running_loop().time()
        answer = await self._client.get(
            f"/api/v1/namespaces/{namespace}/events", fieldSelector=OF_PODS
        )
        events = sorted(answer["items"], key=_date_event)
        reading.messages = {e["involvedObject"]["uid"]: e["message"] for e in events}
        ended = asyncio.get_running_loop().time()
        reading.stale_at = ended + max(FRESH_SECONDS, REST_FACTOR * (ended - began))


def _date_event(event: dict[str, Any]) -> datetime:
    """Return when an Event was last told: each of Kubernetes' two event APIs dates its own way."""
    last = (event.get("series") or {}).get("lastObservedTime") or event.get("lastTimestamp")
    return datetime.fromisoformat(
        last or event.get("eventTime") or event["metadata"]["creationTimestamp"]
    )
