"""The world of a cluster: each process is a pod, the status is the job's own.

Below: `kube` (requests), `pod_store` and `job_store` (what is known), `inquiries` (what is asked),
`render` (how things look). Above: `reconcile`. This module carries out and decides nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from datetime import datetime
from http import HTTPStatus
from typing import Any

from llmtrain_api import API_VERSION, GROUP, KIND, PLURAL, VERSION, JobStatus, LLMTrainingJob
from llmtrain_api.records import Stage
from llmtrain_operator.metrics import ATTEMPTS
from llmtrain_operator.plan import FINISHED_PHASES, misses_workers
from llmtrain_operator.plan.types import (
    Event,
    Observed,
    ObservedProcess,
    Plan,
    Process,
    ProcessState,
)
from llmtrain_operator.render.config import render_config
from llmtrain_operator.render.labels import JOB_LABEL
from llmtrain_operator.render.pods import render_pod
from llmtrain_operator.render.services import has_service, render_service
from llmtrain_operator.world import ConflictError
from llmtrain_operator.world.events import publish_event
from llmtrain_operator.world.inquiries import Inquiries
from llmtrain_operator.world.job_store import JobStore
from llmtrain_operator.world.kube import ApiError, KubeClient, has_fields
from llmtrain_operator.world.pod_facts import find_owner
from llmtrain_operator.world.pod_store import PodStore

logger = logging.getLogger(__name__)

JOBS_PATH = f"/apis/{GROUP}/{VERSION}/namespaces/{{namespace}}/{PLURAL}"
CORE_PATH = "/api/v1/namespaces/{namespace}/{kind}"
REFUSALS = frozenset(
    {HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN, HTTPStatus.UNPROCESSABLE_ENTITY}
)
"""Answers to a creation that will not change by asking again at once."""
FURNISHED_SECONDS = 60.0
"""Service and ConfigMap of a job are not looked at again within this time."""
CREATIONS_PER_JOB = 16
NAMES_IN_LOG = 4


class ClusterWorld:
    """See `World`. Everything it remembers can be had again from the API."""

    def __init__(
        self,
        client: KubeClient,
        jobs: JobStore,
        pods: PodStore,
        inquiries: Inquiries,
        *,
        synced: Iterable[asyncio.Event],
        trainer_image: str,
        pull_policy: str,
        clock: Callable[[], datetime],
    ) -> None:
        """Observe nothing before all of `synced` are set: absence must mean absence."""
        self._client = client
        self._jobs = jobs
        self._pods = pods
        self._inquiries = inquiries
        self._synced = tuple(synced)
        self._trainer_image = trainer_image
        self._pull_policy = pull_policy
        self._clock = clock
        self._furnished: dict[str, tuple[str, float]] = {}

    async def read_job(self, key: str) -> LLMTrainingJob | None:
        """Return the job; a run keeps the image that it began with."""
        job = self._jobs.find(key)
        if job is None or job.metadata.deletion_timestamp is not None:
            self._inquiries.forget(key)
            self._furnished.pop(key, None)
            return None
        workers = job.spec.workers
        if workers.image is None:
            provenance = job.status.provenance
            begun_with = provenance.image if provenance is not None else None
            workers = workers.model_copy(update={"image": begun_with or self._trainer_image})
            spec = job.spec.model_copy(update={"workers": workers})
            job = job.model_copy(update={"spec": spec})
        return job

    async def observe(self, job: LLMTrainingJob) -> Observed:
        """Return the job's pods, and what was heard from them."""
        for event in self._synced:
            await event.wait()
        processes = self._pods.list_of(job.metadata.uid)
        if job.status.phase in FINISHED_PHASES:
            self._inquiries.forget(job.key)
            return Observed(processes=processes)
        if misses_workers(job, Observed(processes=processes)):
            processes = await self._list_anew(job)
        inquiry = self._inquiries.follow(job)
        return Observed(processes=_explain(processes, inquiry.hindrance), progress=inquiry.progress)

    async def apply(self, job: LLMTrainingJob, plan: Plan) -> tuple[str, ...]:
        """Delete and create pods; what they mount and meet under comes before the first one."""
        if plan.start or plan.remove:
            started, removed = _name_all(plan.start), _name_all(plan.remove)
            logger.info("%s: starting %s; removing %s", job.key, started, removed)
        await _do_all(self._remove(job, process) for process in plan.remove)
        stage = plan.status.stage
        # What a pod lacks may be ours: a ConfigMap that somebody deleted.
        if stage is None or not (plan.start or self._inquiries.is_hindered(job.key)):
            return ()
        refusals = await self._furnish(job, stage)
        if not refusals:
            slots = asyncio.Semaphore(CREATIONS_PER_JOB)
            avoided = tuple(avoided.node for avoided in plan.status.avoided_nodes)
            await _do_all(
                self._start(job, process, avoided, slots, refusals) for process in plan.start
            )
        return tuple(dict.fromkeys(refusals))

    async def write_status(self, job: LLMTrainingJob, status: JobStatus) -> None:
        """Replace the status of the version that was read."""
        path = f"{JOBS_PATH.format(namespace=job.metadata.namespace)}/{job.metadata.name}/status"
        # Of what is put to a status the apiserver stores the status alone, and only where uid and
        # version are the stored ones. That costs it a quarter less than a patch.
        body = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {
                "name": job.metadata.name,
                "namespace": job.metadata.namespace,
                "uid": job.metadata.uid,
                "resourceVersion": job.metadata.resource_version,
            },
            "status": status.dump(),
        }
        try:
            written = await self._client.replace(path, body)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                self._jobs.drop(job.key, job.metadata.uid)
                self._pods.forget_job(job.metadata.uid)
                return
            if error.status == HTTPStatus.CONFLICT:
                raise ConflictError(f"{job.key}: {error.message}") from error
            raise
        _count_attempts(job, status)
        self._jobs.note_status(job, status, written["metadata"]["resourceVersion"])

    async def publish(self, job: LLMTrainingJob, events: tuple[Event, ...]) -> None:
        """Create Kubernetes Events."""
        for event in events:
            await publish_event(self._client, job, event, self._clock())

    async def _list_anew(self, job: LLMTrainingJob) -> tuple[ObservedProcess, ...]:
        """Ask for the job's pods: where a leader is new, the watch may lag behind the status."""
        path = CORE_PATH.format(namespace=job.metadata.namespace, kind="pods")
        pods, _ = await self._client.list_all(
            path, labelSelector=f"{JOB_LABEL}={job.metadata.name}"
        )
        for pod in pods:
            self._pods.note(pod)
        return self._pods.list_of(job.metadata.uid)

    async def _remove(self, job: LLMTrainingJob, process: Process) -> None:
        facts = self._pods.dismiss(job.metadata.uid, process.name)
        if facts is None:
            return
        options: dict[str, Any] = {"preconditions": {"uid": facts.uid}}
        if facts.observed.ended_by == "NodeLost":
            # No kubelet is left that could confirm that it is gone.
            options["gracePeriodSeconds"] = 0
        path = f"{CORE_PATH.format(namespace=job.metadata.namespace, kind='pods')}/{process.name}"
        try:
            answer = await self._client.delete(path, options)
        except ApiError as error:
            if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                raise
            self._pods.drop(facts)
            return
        if answer.get("kind") == "Pod":
            self._pods.note(answer)

    async def _furnish(self, job: LLMTrainingJob, stage: Stage) -> list[str]:
        """See to the ConfigMap and the Service of a stage."""
        now = asyncio.get_running_loop().time()
        mark, since = self._furnished.get(job.key, ("", 0.0))
        if mark == f"{job.metadata.uid} {stage}" and now - since < FURNISHED_SECONDS:
            return []
        objects = [("configmaps", render_config(job))]
        if has_service(job, stage):
            objects.append(("services", render_service(job, stage)))
        refusals = [
            refusal
            for refusal in await asyncio.gather(*(self._provide(job, *o) for o in objects))
            if refusal is not None
        ]
        if not refusals:
            self._furnished[job.key] = (f"{job.metadata.uid} {stage}", now)
        return refusals

    async def _provide(self, job: LLMTrainingJob, kind: str, body: dict[str, Any]) -> str | None:
        """Create an object, or apply it where the job has another; return what refuses it."""
        path = CORE_PATH.format(namespace=job.metadata.namespace, kind=kind)
        name = body["metadata"]["name"]
        try:
            await self._client.create(path, body)
        except ApiError as error:
            if error.status in REFUSALS:
                return error.message
            if error.status != HTTPStatus.CONFLICT:
                raise
            present = await self._client.get(f"{path}/{name}")
            if find_owner(present["metadata"]) != job.metadata.uid:
                return _explain_foreign(kind, name)
            # A write for each job would be what an operator begins with whenever it is started.
            if not has_fields(present, body):
                await self._client.apply(f"{path}/{name}", body)
        return None

    async def _start(
        self,
        job: LLMTrainingJob,
        process: Process,
        avoided_nodes: tuple[str, ...],
        slots: asyncio.Semaphore,
        refusals: list[str],
    ) -> None:
        async with slots:
            if refusals:  # the platform would say the same of the next thousand
                return
            path = CORE_PATH.format(namespace=job.metadata.namespace, kind="pods")
            try:
                body = render_pod(
                    job, process, pull_policy=self._pull_policy, avoided_nodes=avoided_nodes
                )
                pod = await self._client.create(path, body)
            except ApiError as error:
                if error.status in REFUSALS:
                    refusals.append(error.message)
                    return
                if error.status != HTTPStatus.CONFLICT:
                    raise
                pod = await self._client.get(f"{path}/{process.name}")
                if find_owner(pod["metadata"]) != job.metadata.uid:
                    refusals.append(_explain_foreign("pods", process.name))
                    return
            self._pods.note(pod)


async def _do_all(acts: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all at once; where one fails, leave the rest: the next pass sees what is there."""
    try:
        async with asyncio.TaskGroup() as group:
            for act in acts:
                group.create_task(act)
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


def _explain(
    processes: tuple[ObservedProcess, ...], hindrance: tuple[str, str] | None
) -> tuple[ObservedProcess, ...]:
    """Add to the pod of that name why it does not start."""
    if hindrance is None:
        return processes
    name, message = hindrance
    return tuple(
        replace(p, waiting_reason="ContainerCreating", waiting_message=message)
        if p.process.name == name and p.state is ProcessState.WAITING
        else p
        for p in processes
    )


def _name_all(processes: tuple[Process, ...]) -> str:
    """Name processes for the log, the first few of many."""
    names = [process.name for process in processes[:NAMES_IN_LOG]]
    more = len(processes) - len(names)
    return ", ".join([*names, f"{more} more"] if more else names) or "none"


def _explain_foreign(kind: str, name: str) -> str:
    return f"{kind} {name!r} exists and is not this job's; delete it, or name the job otherwise"


def _count_attempts(job: LLMTrainingJob, status: JobStatus) -> None:
    known = {(a.stage, a.index, a.incarnation) for a in job.status.attempts}
    for attempt in status.attempts:
        if (attempt.stage, attempt.index, attempt.incarnation) not in known:
            ATTEMPTS.labels(job.metadata.namespace, attempt.stage, attempt.reason).inc()
