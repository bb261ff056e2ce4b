"""The cluster's world within this process, on a real apiserver: what it may trust, and what not."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp
import prometheus_client
import pytest

from llmtrain_api.status import ConditionType
from llmtrain_operator.reconcile import reconcile
from llmtrain_operator.world import cluster, inquiries, watch
from llmtrain_operator.world.cluster import ClusterWorld
from llmtrain_operator.world.inquiries import Inquiries
from llmtrain_operator.world.job_store import JobStore
from llmtrain_operator.world.kube import KubeClient, open_client
from llmtrain_operator.world.pod_store import PodStore
from llmtrain_operator.world.pod_warnings import PodWarnings
from testbed.control_plane import ControlPlane
from testbed.operators import SECONDS, Jobs
from testbed.processes import find_free_port


def tell_time() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
async def kube(server: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubeClient]:
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
    async with open_client(requests=4) as client:
        yield client


@dataclass
class Parts:
    """A world that heard of the job as it is stored, and whose watch of pods has told nothing."""

    world: ClusterWorld
    pods: PodStore
    inquiries: Inquiries


@pytest.fixture
async def make_world(kube: KubeClient, jobs: Jobs) -> AsyncIterator[Callable[[], Parts]]:
    async with aiohttp.ClientSession() as agents:

        def make() -> Parts:
            known, pods = JobStore(), PodStore(lambda key: None)
            known.note(jobs.get("llmjob", "tiny"))
            asking = Inquiries(
                kube, agents, pods, on_news=lambda key: None, clock=tell_time, round_seconds=1
            )
            world = ClusterWorld(
                kube,
                known,
                pods,
                asking,
                synced=[],
                trainer_image="trainer:test",
                pull_policy="Never",
                clock=tell_time,
            )
            return Parts(world, pods, asking)

        yield make


def count_failed_watches() -> float:
    sample = "llmtrain_operator_watch_restarts_total"
    return prometheus_client.REGISTRY.get_sample_value(sample, {"cause": "error"}) or 0.0


async def test_a_worker_is_not_doubled_where_the_watch_lags_behind_the_status(
    jobs: Jobs, make_world: Callable[[], Parts]
) -> None:
    jobs.apply()
    key = f"{jobs.namespace}/tiny"
    await reconcile(key, make_world().world, tell_time)
    condition = jobs.read().status.find_condition(ConditionType.RECONCILING)
    assert condition is not None
    assert condition.reason == "WorkersExist"

    await reconcile(key, make_world().world, tell_time)

    assert set(jobs.list_pods()) == {"tiny-prepare-0-0"}
    assert jobs.read().status.restarts == 0


async def test_a_worker_that_is_truly_gone_is_replaced(
    jobs: Jobs, make_world: Callable[[], Parts]
) -> None:
    jobs.apply()
    key = f"{jobs.namespace}/tiny"
    await reconcile(key, make_world().world, tell_time)
    jobs.server.kubectl("-n", jobs.namespace, "delete", "pod", "tiny-prepare-0-0")

    await reconcile(key, make_world().world, tell_time)

    assert set(jobs.list_pods()) == {"tiny-prepare-0-1"}
    assert jobs.read().status.attempts[0].reason == "Deleted"


async def test_a_configuration_that_was_deleted_comes_back_where_a_pod_waits_for_it(
    jobs: Jobs, make_world: Callable[[], Parts], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "FURNISHED_SECONDS", 0.0)
    monkeypatch.setattr(inquiries, "STARTING_SECONDS", 0.0)
    jobs.apply()
    key = f"{jobs.namespace}/tiny"
    parts = make_world()
    await reconcile(key, parts.world, tell_time)
    jobs.server.kubectl("-n", jobs.namespace, "delete", "configmap", "tiny-run")
    jobs.bind("tiny-prepare-0-0", node="elsewhere")
    jobs.warn_of("tiny-prepare-0-0", 'configmap "tiny-run" not found')
    parts.pods.note(jobs.get("pod", "tiny-prepare-0-0"))

    asking = asyncio.create_task(parts.inquiries.run())
    async with asyncio.timeout(SECONDS):
        while not parts.inquiries.is_hindered(key):
            await asyncio.sleep(0.05)
    asking.cancel()
    await reconcile(key, parts.world, tell_time)

    assert jobs.exists("configmap", "tiny-run")


async def test_warnings_of_all_pods_of_a_namespace_are_read_at_once(
    namespace: str, kube: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    answer = kube.get

    async def count(path: str, **parameters: str) -> dict[str, Any]:
        asked.append(path)
        return await answer(path, **parameters)

    monkeypatch.setattr(kube, "get", count)
    for pod, type_, told, message in (
        ("first", "Warning", "2026-01-01T00:00:02Z", "still no such Secret"),
        ("first", "Warning", "2026-01-01T00:00:01Z", "no such Secret"),
        ("second", "Warning", "2026-01-01T00:00:01Z", "no such volume"),
        ("third", "Normal", "2026-01-01T00:00:01Z", "pulling its image"),
    ):
        event = {
            "metadata": {"generateName": "told-", "namespace": namespace},
            "involvedObject": {"kind": "Pod", "namespace": namespace, "name": pod, "uid": pod},
            "type": type_,
            "reason": "Told",
            "message": message,
            "lastTimestamp": told,
        }
        await kube.create(f"/api/v1/namespaces/{namespace}/events", event)
    warnings = PodWarnings(kube)

    found = await asyncio.gather(
        *(warnings.find(namespace, p) for p in ("first", "second", "third"))
    )

    assert found == ["still no such Secret", "no such volume", None]
    assert asked == [f"/api/v1/namespaces/{namespace}/events"]


async def test_an_apiserver_that_is_away_for_hours_is_still_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "MAX_RETRY_SECONDS", 0.0)
    tries = 1100  # 2 to this power is more than a float holds
    before = count_failed_watches()
    client = KubeClient(f"http://127.0.0.1:{find_free_port()}", aiohttp.ClientSession, requests=1)
    async with client.session:
        following = asyncio.create_task(
            watch.follow_pods(
                client,
                PodStore(lambda key: None),
                namespace="",
                synced=asyncio.Event(),
                rng=random.Random(0),
            )
        )
        async with asyncio.timeout(SECONDS):
            while count_failed_watches() < before + tries and not following.done():
                await asyncio.sleep(0.01)
        assert not following.done()
        following.cancel()
