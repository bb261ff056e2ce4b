"""One operator works, the others wait: a Lease is held before any write.

Below: `world.kube`. Above: `__main__`, which starts the work queue once the Lease is held and
ends the program when it is lost. Modelled on client-go's leader election: a holder is taken for
dead when its Lease has not changed for its whole duration on our own clock, so that clocks of
two machines are never compared.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any

import aiohttp

from llmtrain_operator.metrics import LEADING
from llmtrain_operator.world.kube import ApiError, KubeClient

logger = logging.getLogger(__name__)

DURATION_SECONDS = 15
"""Others take over after so long without a sign of life."""
GIVE_UP_SECONDS = 10.0
"""A holder that could not renew for so long stops, well before others take over."""
RENEW_SECONDS = 3.0
RETRY_SECONDS = 1.0


class LeaseLostError(Exception):
    """The Lease could not be renewed in time, or another holds it."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the Lease said, and when that was new, on our clock."""

    sign: tuple[Any, ...]
    since: float


class Lease:
    """A Lease `namespace/name` to be held as `identity`.

    No two live processes may share an identity: a process takes over at once what its
    predecessor of the same identity held.
    """

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], datetime],
    ) -> None:
        """Nothing is read or written before `acquire`; `clock` gives the time to write down."""
        self._client = client
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = name
        self._identity = identity
        self._clock = clock
        self._held: dict[str, Any] | None = None

    async def acquire(self) -> None:
        """Return once the Lease is held."""
        seen: _Seen | None = None
        while True:
            try:
                seen = await self._try_acquire(seen)
            except (ApiError, aiohttp.ClientError, TimeoutError, OSError) as error:
                logger.warning("asking for the lease %s: %s", self._name, error)
            if self._held is not None:
                LEADING.set(1)
                logger.info("%s holds the lease %s", self._identity, self._name)
                return
            await asyncio.sleep(RETRY_SECONDS)

    async def keep(self) -> None:
        """Renew the Lease until cancelled.

        Raises:
            LeaseLostError: it could not be renewed in time. Nothing may be written any more.
        """
        loop = asyncio.get_running_loop()
        renewed_at = loop.time()
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                async with asyncio.timeout_at(renewed_at + GIVE_UP_SECONDS):
                    asked_at = loop.time()
                    await self._renew()
                    renewed_at = asked_at
            except ApiError as error:
                logger.warning("renewing the lease %s: %s", self._name, error)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                logger.warning("renewing the lease %s: %r", self._name, error)
            if loop.time() - renewed_at >= GIVE_UP_SECONDS:
                raise LeaseLostError(f"the lease {self._name} could not be renewed in time")

    async def release(self) -> None:
        """Let another take over at once."""
        if self._held is None:
            return
        LEADING.set(0)
        self._held["spec"]["holderIdentity"] = ""
        try:
            await self._client.replace(f"{self._collection}/{self._name}", self._held)
        except (ApiError, aiohttp.ClientError, TimeoutError, OSError) as error:
            logger.warning("releasing the lease %s: %s", self._name, error)
        self._held = None

    async def _try_acquire(self, seen: _Seen | None) -> _Seen | None:
        """Take the Lease if it is free; return what was seen of its holder otherwise."""
        try:
            lease = await self._client.get(f"{self._collection}/{self._name}")
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            body = {"metadata": {"name": self._name}, "spec": self._claim(transitions=0)}
            self._held = await self._client.create(self._collection, body)
            return None
        spec = lease.get("spec", {})
        now = asyncio.get_running_loop().time()
        sign = (spec.get("holderIdentity"), spec.get("renewTime"))
        if seen is None or seen.sign != sign:
            seen = _Seen(sign, now)
        duration = spec.get("leaseDurationSeconds") or DURATION_SECONDS
        is_free = not spec.get("holderIdentity") or spec["holderIdentity"] == self._identity
        if not is_free and now - seen.since < duration:
            return seen
        lease["spec"] = self._claim(transitions=spec.get("leaseTransitions", 0) + 1)
        self._held = await self._client.replace(f"{self._collection}/{self._name}", lease)
        return None

    async def _renew(self) -> None:
        assert self._held is not None, "only a holder renews"
        try:
            await self._write_renewal(self._held)
        except ApiError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            # Perhaps by ourselves: an earlier renewal may have come through without its answer.
            stored = await self._client.get(f"{self._collection}/{self._name}")
            if stored.get("spec", {}).get("holderIdentity") != self._identity:
                raise LeaseLostError(f"another took the lease {self._name}") from error
            await self._write_renewal(stored)

    async def _write_renewal(self, lease: dict[str, Any]) -> None:
        lease["spec"]["renewTime"] = self._format_now()
        self._held = await self._client.replace(f"{self._collection}/{self._name}", lease)

    def _claim(self, *, transitions: int) -> dict[str, Any]:
        now = self._format_now()
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": DURATION_SECONDS,
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": transitions,
        }

    def _format_now(self) -> str:
        return self._clock().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
