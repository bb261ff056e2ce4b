"""The Lease on a real apiserver: one holder at a time, handed over, taken from the dead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from llmtrain_operator import lease as lease_module
from llmtrain_operator.lease import Lease, LeaseLostError
from llmtrain_operator.world.kube import KubeClient, open_client
from testbed.control_plane import ControlPlane

HAND_OVER_SECONDS = 10.0


@pytest.fixture
async def kube(
    control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[KubeClient]:
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    async with open_client(requests=4) as client:
        yield client


def compete(kube: KubeClient, namespace: str, identity: str, *, skew: float = 0) -> Lease:
    return Lease(
        kube,
        namespace=namespace,
        name="operator",
        identity=identity,
        clock=lambda: datetime.now(UTC) + timedelta(seconds=skew),
    )


async def read_holder(kube: KubeClient, namespace: str) -> str | None:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/operator"
    holder: str | None = (await kube.get(path))["spec"].get("holderIdentity")
    return holder


async def test_the_second_waits_until_the_first_releases(kube: KubeClient, namespace: str) -> None:
    first, second = compete(kube, namespace, "a"), compete(kube, namespace, "b")
    await first.acquire()
    waiting = asyncio.create_task(second.acquire())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 2 * lease_module.RETRY_SECONDS)
    await first.release()
    await asyncio.wait_for(waiting, HAND_OVER_SECONDS)
    assert await read_holder(kube, namespace) == "b"


async def test_a_restart_under_the_same_name_goes_on_at_once(
    kube: KubeClient, namespace: str
) -> None:
    await compete(kube, namespace, "a").acquire()
    # No release: the first was killed.
    again = compete(kube, namespace, "a")
    await asyncio.wait_for(again.acquire(), HAND_OVER_SECONDS)


@pytest.mark.fault(29, world="apiserver")
@pytest.mark.parametrize("skew", [-3600.0, 0.0, 3600.0])
async def test_a_dead_holder_is_replaced_whatever_its_clock_said(
    kube: KubeClient, namespace: str, monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    monkeypatch.setattr(lease_module, "DURATION_SECONDS", 2)
    monkeypatch.setattr(lease_module, "RETRY_SECONDS", 0.1)
    await compete(kube, namespace, "dead", skew=skew).acquire()
    await asyncio.wait_for(compete(kube, namespace, "b").acquire(), HAND_OVER_SECONDS)
    assert await read_holder(kube, namespace) == "b"


async def test_a_holder_that_renews_is_not_replaced(
    kube: KubeClient, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "DURATION_SECONDS", 2)
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.3)
    monkeypatch.setattr(lease_module, "RETRY_SECONDS", 0.1)
    holder = compete(kube, namespace, "a")
    await holder.acquire()
    renewing = asyncio.create_task(holder.keep())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(compete(kube, namespace, "b").acquire(), 5)
    renewing.cancel()
    assert await read_holder(kube, namespace) == "a"


async def test_a_holder_learns_that_another_took_it(
    kube: KubeClient, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "DURATION_SECONDS", 1)
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.1)
    frozen = compete(kube, namespace, "frozen")
    await frozen.acquire()
    await compete(kube, namespace, "b").acquire()
    with pytest.raises(LeaseLostError, match="another took"):
        await asyncio.wait_for(frozen.keep(), HAND_OVER_SECONDS)
    # What is not held is not released.
    await frozen.release()
    assert await read_holder(kube, namespace) == "b"


async def test_a_renewal_whose_answer_was_lost_is_no_loss(
    kube: KubeClient, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.1)
    holder = compete(kube, namespace, "a")
    await holder.acquire()
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/operator"
    stored = await kube.get(path)
    stored["spec"]["renewTime"] = "2026-11-24T12:00:00.000000Z"
    written = (await kube.replace(path, stored))["spec"]["renewTime"]
    renewing = asyncio.create_task(holder.keep())
    async with asyncio.timeout(HAND_OVER_SECONDS):
        while not renewing.done() and (await kube.get(path))["spec"]["renewTime"] == written:
            await asyncio.sleep(0.05)
    assert not renewing.done()
    renewing.cancel()
    assert await read_holder(kube, namespace) == "a"


async def test_a_holder_that_cannot_renew_gives_up_before_another_may_begin(
    kube: KubeClient, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(lease_module, "GIVE_UP_SECONDS", 1.0)
    holder = compete(kube, namespace, "a")
    await holder.acquire()
    # A port that nothing listens on stands for an apiserver that is away.
    monkeypatch.setattr(kube, "server", "https://127.0.0.1:1")
    with pytest.raises(LeaseLostError, match="could not be renewed"):
        await asyncio.wait_for(holder.keep(), HAND_OVER_SECONDS)


def test_giving_up_comes_before_the_lease_runs_out() -> None:
    assert lease_module.RENEW_SECONDS < lease_module.GIVE_UP_SECONDS < lease_module.DURATION_SECONDS
