"""`python -m llmtrain_operator`: everything that runs, and in which order it starts and ends.

Start here. Below: `handlers` (kopf watches jobs), `world` (everything else of the cluster),
`workqueue` and `reconcile` (what is done about it), `lease` (who does it).
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import aiohttp
import kopf
import prometheus_client

from llmtrain_operator.evaluation_metrics import EvaluationCollector
from llmtrain_operator.handlers import build_registry, configure
from llmtrain_operator.lease import Lease, LeaseLostError
from llmtrain_operator.ledger_metrics import LedgerCollector
from llmtrain_operator.metrics import QUEUE_DEPTH, RECONCILE_SECONDS
from llmtrain_operator.reconcile import reconcile
from llmtrain_operator.settings import Settings, read_settings
from llmtrain_operator.workqueue import WorkQueue
from llmtrain_operator.world import ConflictError
from llmtrain_operator.world.cluster import ClusterWorld
from llmtrain_operator.world.inquiries import Inquiries
from llmtrain_operator.world.job_store import JobStore
from llmtrain_operator.world.kube import open_client
from llmtrain_operator.world.pod_store import PodStore
from llmtrain_operator.world.watch import follow_pods

logger = logging.getLogger(__name__)

CHATTY_LOGGERS = ("kopf.objects", "kopf.activities", "aiohttp.access")
"""They tell of each handled event and each probe."""


def main() -> int:
    """Run until told to stop; returns the exit code."""
    try:
        settings = read_settings(os.environ)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    kopf.configure(
        debug=settings.log_level == "debug",
        log_format=kopf.LogFormat.JSON if settings.log_format == "json" else kopf.LogFormat.FULL,
    )
    logging.getLogger().setLevel(settings.log_level.upper())
    if settings.log_level != "debug":
        for chatty in CHATTY_LOGGERS:
            logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        asyncio.run(operate(settings))
    except LeaseLostError as error:
        logger.error("%s", error)
        return 1
    return 0


async def operate(settings: Settings) -> None:
    """Keep caches warm, wait for the Lease, then reconcile until told to stop."""
    rng = random.Random()
    async with (
        open_client(requests=settings.requests) as client,
        # The Lease's own: in a burst of work its renewal must not wait in line.
        open_client(requests=1) as lease_client,
        aiohttp.ClientSession() as agents,
    ):
        jobs = JobStore()
        pods = PodStore(lambda key: queue.enqueue(key))
        inquiries = Inquiries(
            client,
            agents,
            pods,
            on_news=lambda key: queue.enqueue(key),
            clock=tell_time,
            round_seconds=settings.progress_seconds,
        )
        namespaces = settings.watch_namespaces or ("",)
        synced = {namespace: asyncio.Event() for namespace in namespaces}
        world = ClusterWorld(
            client,
            jobs,
            pods,
            inquiries,
            synced=synced.values(),
            trainer_image=settings.trainer_image,
            pull_policy=settings.trainer_image_pull_policy,
            clock=tell_time,
        )
        queue = WorkQueue(
            _time(world, lambda: queue.is_crowded), num_workers=settings.workers, rng=rng
        )
        QUEUE_DEPTH.set_function(lambda: queue.depth)
        lease = Lease(
            lease_client, settings.namespace, settings.lease_name, settings.pod_name, tell_time
        )
        prometheus_client.REGISTRY.register(LedgerCollector(jobs.list_jobs))
        prometheus_client.REGISTRY.register(EvaluationCollector(jobs.list_jobs))
        if settings.metrics_port:
            prometheus_client.start_http_server(settings.metrics_port)

        tasks = await kopf.spawn_tasks(
            registry=build_registry(client, jobs, enqueue=queue.enqueue, forget=pods.forget_job),
            settings=configure(kopf.OperatorSettings()),
            clusterwide=not settings.watch_namespaces,
            namespaces=settings.watch_namespaces,
            liveness_endpoint=(
                f"http://0.0.0.0:{settings.health_port}/healthz" if settings.health_port else None
            ),
        )
        followers = [
            asyncio.create_task(
                follow_pods(client, pods, namespace=namespace, synced=event, rng=rng),
                name=f"pods of {namespace or 'all namespaces'}",
            )
            for namespace, event in synced.items()
        ]
        work = asyncio.create_task(
            _work(lease, queue, inquiries, jobs, settings.resync_seconds, rng), name="work"
        )
        await kopf.run_tasks([*tasks, *followers, work])


async def _work(
    lease: Lease,
    queue: WorkQueue,
    inquiries: Inquiries,
    jobs: JobStore,
    resync_seconds: float,
    rng: random.Random,
) -> None:
    """Wait for the Lease; then work as long as it is held."""
    await lease.acquire()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(lease.keep())
            group.create_task(queue.run())
            group.create_task(inquiries.run())
            group.create_task(_resync(queue, jobs, resync_seconds, rng))
    except* LeaseLostError as lost:
        raise lost.exceptions[0] from None
    finally:
        await lease.release()


async def _resync(queue: WorkQueue, jobs: JobStore, seconds: float, rng: random.Random) -> None:
    """Enqueue every job once in a while, spread over that while."""
    while True:
        keys = list(jobs.list_keys())
        rng.shuffle(keys)
        for key in keys:
            await asyncio.sleep(seconds / len(keys))
            queue.enqueue(key)
        if not keys:
            await asyncio.sleep(seconds)


def _time(
    world: ClusterWorld, is_crowded: Callable[[], bool]
) -> Callable[[str], Awaitable[float | None]]:
    async def reconcile_timed(key: str) -> float | None:
        began = time.perf_counter()
        outcome = "error"
        try:
            requeue_after = await reconcile(key, world, tell_time, is_crowded)
            outcome = "done"
        except ConflictError:
            outcome = "conflict"
            raise
        finally:
            RECONCILE_SECONDS.labels(outcome).observe(time.perf_counter() - began)
        return requeue_after

    return reconcile_timed


def tell_time() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)


if __name__ == "__main__":
    sys.exit(main())
