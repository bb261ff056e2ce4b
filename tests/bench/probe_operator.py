"""What a thousand jobs cost at least: an operator without a product, for `bench_operator` alone.

    KUBECONFIG=… PROBE_OBJECTS=least python tests/bench/probe_operator.py

It makes a ConfigMap, a headless Service and the pods of a job, and writes one status when all pods
run, by the shortest way that is still an operator: kopf's event handlers for jobs and pods, a
deduplicating queue, 32 workers. It counts nothing, mends nothing and knows no stages. How much
slower ours is, on the same machine in the same hour, is what the rest of it costs.

With PROBE_OBJECTS=least they say only what lets a pod run; with PROBE_OBJECTS=ours they are those
that our operator makes, with probes, security contexts, spreading, tolerations and the run's
configuration. The first is the least that anything could cost, the second what our orchestration
may cost at most.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import kopf

from llmtrain_api import GROUP, PLURAL, VERSION, LLMTrainingJob
from llmtrain_api.records import Stage
from llmtrain_operator.plan.types import Process
from llmtrain_operator.render.config import render_config
from llmtrain_operator.render.labels import JOB_LABEL
from llmtrain_operator.render.pods import render_pod
from llmtrain_operator.render.services import render_service
from llmtrain_operator.world.kube import ApiError, KubeClient, open_client

WORKERS = 32
IMAGE = "trainer:bench"
CORE = "/api/v1/namespaces/{namespace}/{kind}"

Body = dict[str, Any]


class Probe:
    """Jobs and pods as the watches tell of them, and the queue of jobs to look at."""

    def __init__(self, client: KubeClient, describe: Callable[[Body], list[Body]]) -> None:
        """Write through `client` what `describe` says of a job."""
        self._client = client
        self._describe = describe
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
            config, service, *pods = self._describe(job)
            await asyncio.gather(
                self._create(job, "configmaps", config), self._create(job, "services", service)
            )
            for pod in pods:
                await self._create(job, "pods", pod)
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

    async def _create(self, job: Body, kind: str, body: Body) -> None:
        path = CORE.format(namespace=job["metadata"]["namespace"], kind=kind)
        try:
            await self._client.create(path, body)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise


def describe_least(job: Body) -> list[Body]:
    """Return a ConfigMap, a Service and pods that say no more than they must."""
    metadata, name = job["metadata"], job["metadata"]["name"]

    def describe(own_name: str, facts: Body) -> Body:
        owner = {
            "apiVersion": job["apiVersion"],
            "kind": job["kind"],
            "name": name,
            "uid": metadata["uid"],
            "controller": True,
        }
        labels = {JOB_LABEL: name}
        return {
            "metadata": {"name": own_name, "labels": labels, "ownerReferences": [owner]}
        } | facts

    service = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {JOB_LABEL: name}}
    names = [f"{name}-{index}" for index in range(job["spec"]["workers"]["replicas"])]
    return [
        describe(name, {"data": {"config.json": str(job["spec"])}}),
        describe(name, {"spec": service}),
        *(describe(pod, {"spec": describe_least_pod(name, pod)}) for pod in names),
    ]


def describe_least_pod(job: str, name: str) -> Body:
    """Return the specification of one worker."""
    return {
        "restartPolicy": "Never",
        "hostname": name,
        "subdomain": job,
        "automountServiceAccountToken": False,
        "containers": [
            {
                "name": "worker",
                "image": IMAGE,
                "resources": {"requests": {"cpu": "1", "memory": "1Gi"}},
                "volumeMounts": [{"name": "config", "mountPath": "/etc/config"}],
            }
        ],
        "volumes": [{"name": "config", "configMap": {"name": job}}],
    }


def describe_ours(job: Body) -> list[Body]:
    """Return what our operator makes of a job in its training stage."""
    parsed = LLMTrainingJob.model_validate(dict(job))
    workers = parsed.spec.workers.model_copy(update={"image": IMAGE})
    spec = parsed.spec.model_copy(update={"workers": workers})
    parsed = parsed.model_copy(update={"spec": spec})
    processes = [
        Process(job=parsed.metadata.name, stage=Stage.TRAIN, index=index, incarnation=0)
        for index in range(workers.replicas)
    ]
    return [
        render_config(parsed),
        render_service(parsed, Stage.TRAIN),
        *(render_pod(parsed, each, pull_policy="IfNotPresent") for each in processes),
    ]


OBJECTS = {"least": describe_least, "ours": describe_ours}


async def operate() -> None:
    """Run until killed."""
    registry = kopf.OperatorRegistry()
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.scanning.disabled = True
    async with open_client(requests=WORKERS) as client:
        probe = Probe(client, OBJECTS[os.environ["PROBE_OBJECTS"]])

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
