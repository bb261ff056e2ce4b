"""Who works on what: claims in the store, and signs of life of those who made them.

Below: `store`. Above: `team` claims units of work for a task, and a whole dataset for a run.

    work/alive/<run>/<task>        written anew every few seconds while that task lives
    work/claims/<name>/000000      says whose the work of that name is; the highest number counts

A claim is created only where there is none, so that one of several gets it. Its holder counts as
dead where its sign of life is gone or has not changed for a while, by the clock of whoever looks
on: clocks of two machines are never compared. Then the next number may be created. A holder that
was only slow goes on unaware, and the same bytes are written twice: claims save work, and nothing
that is right depends on them.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from llmtrain_trainer.failures import StoreError
from llmtrain_trainer.store import ObjectExistsError, Store

logger = logging.getLogger(__name__)

ALIVE = "work/alive/"
CLAIMS = "work/claims/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often tasks show that they live, and look at each other."""

    beat_seconds: float = 10.0
    """Between two signs of life."""

    dead_seconds: float = 60.0
    """Without a new sign of life, after which a task counts as dead: six missed in a row."""

    poll_seconds: float = 2.0
    """Longest pause between two looks at what others have done."""


class LifeWatch:
    """When each sign of life was last seen to change."""

    def __init__(
        self, store: Store, pace: Pace, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Watch the signs of life in `store`; `clock` gives monotonic seconds."""
        self._store = store
        self._pace = pace
        self._clock = clock
        self._seen: dict[str, tuple[str, float]] = {}
        self._looked_at = float("-inf")

    def is_alive(self, holder: str) -> bool:
        """Return whether a task, or some task of a run, lives; one not seen before does."""
        looked_long_ago = self._clock() - self._looked_at >= self._pace.poll_seconds
        if looked_long_ago or not self._list_changes(holder):  # it may have come since
            self._look()
        now = self._clock()
        return any(
            now - changed_at < self._pace.dead_seconds for changed_at in self._list_changes(holder)
        )

    def _list_changes(self, holder: str) -> list[float]:
        return [
            changed_at
            for name, (_, changed_at) in self._seen.items()
            if name == holder or name.startswith(f"{holder}/")
        ]

    def _look(self) -> None:
        now = self._looked_at = self._clock()
        before = self._seen
        self._seen = {}
        for item in self._store.list_objects(ALIVE):
            name = item.key.removeprefix(ALIVE)
            etag, changed_at = before.get(name, ("", now))
            self._seen[name] = (item.etag, changed_at if etag == item.etag else now)


class Claims:
    """The claims of one store."""

    def __init__(self, store: Store, watch: LifeWatch) -> None:
        """Claim in `store`; `watch` says which holders live."""
        self._store = store
        self._watch = watch

    def take(self, name: str, holder: str) -> bool:
        """Return whether the work of that name is `holder`'s: it was, it was nobody's, or a dead
        one's.

        Raises:
            StoreError: where the store fails.
        """
        number, present = self._find(name)
        if present == holder:
            return True
        if present is not None and self._watch.is_alive(present):
            return False
        try:
            self._store.create_bytes(f"{CLAIMS}{name}/{number + 1:06d}", holder.encode())
        except ObjectExistsError:  # a rival's, or our own by a request whose answer was lost
            return self._find(name)[1] == holder
        if present is not None:
            logger.warning("%s takes %s over from %s, which is gone", holder, name, present)
        return True

    def _find(self, name: str) -> tuple[int, str | None]:
        """Return the highest number of a claim, and its holder."""
        prefix = f"{CLAIMS}{name}/"
        keys = [item.key for item in self._store.list_objects(prefix)]
        if not keys:
            return -1, None
        newest = max(keys)
        return int(newest.removeprefix(prefix)), self._store.read_bytes(newest).decode()


@contextmanager
def show_life(store: Store, holder: str, pace: Pace) -> Iterator[None]:
    """Show that `holder` lives, during the block; the first sign is there when it begins.

    Raises:
        StoreError: where the first sign cannot be written.
    """
    key = f"{ALIVE}{holder}"
    over = threading.Event()

    def beat() -> None:
        # Each of another content: a store's etag may be the digest of it.
        store.write_bytes(key, uuid.uuid4().hex.encode())

    def keep_beating() -> None:
        while not over.wait(pace.beat_seconds):
            try:
                beat()
            except StoreError as error:
                logger.warning("no sign of life was written: %s", error)

    beat()
    thread = threading.Thread(target=keep_beating, daemon=True, name="signs-of-life")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with suppress(StoreError):
            store.delete(key)
