"""Every kopf handler of the program: a job changed, so look at it. Nothing else happens here.

Below: kopf. Above: `__main__`. Handlers of changes, daemons, timers and indexes of kopf are not
used: they write into objects, keep finalizers, and act on edges, where a reconciler acts on what
is there. kopf drops errors of event handlers, so they do nothing that can fail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kopf

from llmtrain_api import GROUP, PLURAL, VERSION
from llmtrain_operator.world.job_store import JobStore
from llmtrain_operator.world.kube import KubeClient


def build_registry(
    client: KubeClient,
    jobs: JobStore,
    *,
    enqueue: Callable[[str], None],
    forget: Callable[[str], None],
) -> kopf.OperatorRegistry:
    """Return handlers that keep `jobs`, enqueue keys, and `forget` the uid of deleted jobs."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def open_session(**_: object) -> kopf.AiohttpSession:
        # One of its own: kopf closes it when it stops, and we have a Lease to release after that.
        return kopf.AiohttpSession(server=client.server, aiohttp_session=client.open_session())

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def note_job(type: str | None, body: kopf.Body, **_: object) -> None:  # noqa: A002
        raw: dict[str, Any] = dict(body)
        metadata = raw["metadata"]
        key = f"{metadata['namespace']}/{metadata['name']}"
        if type == "DELETED":
            jobs.drop(key, metadata["uid"])
            forget(metadata["uid"])
            enqueue(key)
        elif jobs.note(raw):
            if "deletionTimestamp" in metadata:
                forget(metadata["uid"])
            enqueue(key)

    return registry


def configure(settings: kopf.OperatorSettings) -> kopf.OperatorSettings:
    """Have kopf watch, and do nothing else: no peering, no events, no look at the definitions."""
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.persistence.diffbase_storage = _NothingCompared()
    settings.persistence.progress_storage = _NothingRemembered()
    return settings


class _NothingCompared(kopf.DiffBaseStorage):
    """Keeps kopf from copying every job for change handlers that there are none of.

    That was a fifth of the operator's processor time.
    """

    def build(self, *, body: kopf.Body, **_: object) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> None:
        return None

    def store(self, **_: object) -> None:
        pass


class _NothingRemembered(kopf.ProgressStorage):
    """Likewise: nothing that kopf could have left in a job has to be looked for."""

    def fetch(self, **_: object) -> None:
        return None

    def store(self, **_: object) -> None:
        pass

    def purge(self, **_: object) -> None:
        pass

    def touch(self, **_: object) -> None:
        pass

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence
