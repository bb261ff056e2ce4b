"""What a thousand jobs cost at least: an operator without a product, for `bench_operator` alone.

    KUBECONFIG=… python tests/bench/probe_operator.py

It makes what our operator makes of a job (a ConfigMap, a headless Service, its pods) and writes
one status when all pods run, by the shortest way that is still an operator: kopf's event handlers
for jobs and pods, a deduplicating queue, 32 workers. It validates nothing, counts nothing, mends
nothing and knows no stages. How much slower ours is, on the same machine in the same hour, is
what the rest of it costs.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import kopf

from llmtrain_api import GROUP, PLURAL, VERSION
from llmtrain_operator.render.labels import JOB_LABEL
from llmtrain_operator.world.kube import ApiError, KubeClient, open_client

WORKERS = 32
CORE = "/api/v1/namespaces/{namespace}/{kind}"

Body = dict[str, Any]


class Probe:
    """Jobs and pods as the watches tell of them, and the queue of jobs to look at."""

    def __init__(self, client: KubeClient) -> None:
        """Write through `client`."""
        self._client = client
        self._jobs: dict[str, Body] = {}
        self._created: set[str] = set()
        self._running: dict[str, set[str]] = defaultdict(set)
        self._reported: set[str] = set()
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._waiting: set[str] = set()

    def note_job(self, type: str | None, body: Body) -> None:  # noqa: A002
        """Take in a job."""
        name = body["metadata"]["name"]
        if type == "DELETED":
            self._jobs.pop(name, None)
        else:
            self._jobs[name] = body
            self._enqueue(name)

    def note_pod(self, type: str | None, body: Body) -> None:  # noqa: A002
        """Take in a pod."""
        job, name = body["metadata"]["labels"][JOB_LABEL], body["metadata"]["name"]
        if type == "DELETED":
            self._running[job].discard(name)
        elif body["status"].get("phase") == "Running":
            self._running[job].add(name)
            self._enqueue(job)

    async def work(self) -> None:
        """Handle keys for ever."""
        while True:
            name = await self._queue.get()
            self._waiting.discard(name)
            if name in self._jobs:
                await self._reconcile(self._jobs[name])

    def _enqueue(self, name: str) -> None:
        if name not in self._waiting:
            self._waiting.add(name)
            self._queue.put_nowait(name)

    async def _reconcile(self, job: Body) -> None:
        name, wanted = job["metadata"]["name"], job["spec"]["workers"]["replicas"]
        if job["spec"]["runPolicy"]["suspend"]:
            return
        if name not in self._created:
            self._created.add(name)
            await asyncio.gather(
                self._create(job, "configmaps", {"data": {"config.json": str(job["spec"])}}, name),
                self._create(job, "services", {"spec": describe_service(name)}, name),
            )
            for index in range(wanted):
                pod_name = f"{name}-{index}"
                await self._create(job, "pods", {"spec": describe_pod(name, pod_name)}, pod_name)
        if len(self._running[name]) == wanted and name not in self._reported:
            self._reported.add(name)
            path = f"/apis/{GROUP}/{VERSION}/namespaces/{job['metadata']['namespace']}/{PLURAL}"
            status = {
                "observedGeneration": job["metadata"]["generation"],
                "phase": "Training",
                "workers": {"desired": wanted, "running": wanted, "summary": f"{wanted}/{wanted}"},
            }
            change = {"op": "add", "path": "/status", "value": status}
            await self._client.patch(f"{path}/{name}/status", [change])

    async def _create(self, job: Body, kind: str, body: Body, name: str) -> None:
        metadata = job["metadata"]
        owner = {
            "apiVersion": job["apiVersion"],
            "kind": job["kind"],
            "name": metadata["name"],
            "uid": metadata["uid"],
            "controller": True,
        }
        body["metadata"] = {
            "name": name,
            "labels": {JOB_LABEL: metadata["name"]},
            "ownerReferences": [owner],
        }
        try:
            await self._client.create(CORE.format(namespace=metadata["namespace"], kind=kind), body)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise


def describe_service(job: str) -> Body:
    """Return the specification of a job's headless Service."""
    return {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {JOB_LABEL: job}}


def describe_pod(job: str, name: str) -> Body:
    """Return the specification of one worker."""
    return {
        "restartPolicy": "Never",
        "hostname": name,
        "subdomain": job,
        "automountServiceAccountToken": False,
        "containers": [
            {
                "name": "worker",
                "image": "trainer:bench",
                "resources": {"requests": {"cpu": "1", "memory": "1Gi"}},
                "volumeMounts": [{"name": "config", "mountPath": "/etc/config"}],
            }
        ],
        "volumes": [{"name": "config", "configMap": {"name": job}}],
    }


async def operate() -> None:
    """Run until killed."""
    registry = kopf.OperatorRegistry()
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.scanning.disabled = True
    async with open_client(requests=WORKERS) as client:
        probe = Probe(client)

        @kopf.on.login(registry=registry)
        async def open_session(**_: object) -> kopf.AiohttpSession:
            return kopf.AiohttpSession(server=client.server, aiohttp_session=client.open_session())

        @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
        async def note_job(type: str | None, body: kopf.Body, **_: object) -> None:  # noqa: A002
            probe.note_job(type, dict(body))

        @kopf.on.event("pods", labels={JOB_LABEL: kopf.PRESENT}, registry=registry)
        async def note_pod(type: str | None, body: kopf.Body, **_: object) -> None:  # noqa: A002
            probe.note_pod(type, dict(body))

        tasks = await kopf.spawn_tasks(registry=registry, settings=settings, clusterwide=True)
        workers = [asyncio.create_task(probe.work()) for _ in range(WORKERS)]
        await kopf.run_tasks([*tasks, *workers])


if __name__ == "__main__":
    asyncio.run(operate())
