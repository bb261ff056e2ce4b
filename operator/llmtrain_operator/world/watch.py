"""List, then watch, for ever: a store that never misses that something went.

Below: `kube`. Above: `__main__` runs one `follow_pods` for each watched namespace.

kopf watches the jobs, but not the pods: after a gap it lists anew and tells nothing of what
vanished meanwhile, and a plan is made from absence as much as from presence.
"""

from __future__ import annotations

import asyncio
import logging
import random
from http import HTTPStatus

import aiohttp

from llmtrain_operator.metrics import WATCH_RESTARTS
from llmtrain_operator.render.labels import JOB_LABEL
from llmtrain_operator.world.kube import ApiError, KubeClient
from llmtrain_operator.world.pod_store import PodStore

logger = logging.getLogger(__name__)

WATCH_SECONDS = 300
FIRST_RETRY_SECONDS = 0.2
MAX_RETRY_SECONDS = 15.0
MAX_DOUBLINGS = 16
"""Beyond this a delay is at its longest anyway, and would in the end exceed what a float holds."""


async def follow_pods(
    client: KubeClient,
    store: PodStore,
    *,
    namespace: str,
    synced: asyncio.Event,
    rng: random.Random,
) -> None:
    """Keep `store` as the API has the worker pods of a namespace ("": of all).

    `synced` is set once the first list is in.
    """
    path = f"/api/v1/namespaces/{namespace}/pods" if namespace else "/api/v1/pods"
    version = ""
    failures = 0
    while True:
        try:
            if not version:
                pods, version = await client.list_all(path, labelSelector=JOB_LABEL)
                store.replace_all(pods, int(version), namespace)
                synced.set()
            async for event in client.watch(
                path,
                labelSelector=JOB_LABEL,
                resourceVersion=version,
                timeoutSeconds=str(WATCH_SECONDS),
            ):
                failures = 0
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] == "DELETED":
                    store.note_gone(event["object"])
                elif event["type"] != "BOOKMARK":
                    store.note(event["object"])
            WATCH_RESTARTS.labels("ended").inc()
        except ApiError as error:
            if error.status == HTTPStatus.GONE:
                WATCH_RESTARTS.labels("gone").inc()
                version = ""
                continue
            failures = await _wait_after(error, failures, rng)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            failures = await _wait_after(error, failures, rng)


async def _wait_after(error: Exception, failures: int, rng: random.Random) -> int:
    WATCH_RESTARTS.labels("error").inc()
    longer = 2.0 ** min(failures, MAX_DOUBLINGS)
    seconds = min(FIRST_RETRY_SECONDS * longer, MAX_RETRY_SECONDS) * rng.uniform(0.5, 1.0)
    logger.warning("watching pods: %s: %s; again in %.1f s", type(error).__name__, error, seconds)
    await asyncio.sleep(seconds)
    return failures + 1
