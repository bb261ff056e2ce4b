"""Keys to look at: each once, one worker for a key at a time, retried with backoff.

Below: asyncio. Above: handlers enqueue keys, the queue calls `reconcile`. It owns retry, since
kopf drops errors of event handlers. Modelled on client-go's rate-limited work queue, but for the
order: the key that was handled longest ago comes first. Where a thousand jobs come at once, the
last of them has its pods before anyone counts how many of the first one's run.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS = 0.05
MAX_BACKOFF_SECONDS = 60.0
MAX_DOUBLINGS = 32
"""Beyond this a delay is at its longest anyway, and would in the end exceed what a float holds."""
CROWD = 50
CROWD_SECONDS = 60.0
"""So many new keys within so long are a crowd: what need not be done at once waits for them."""
JITTER = 0.2
"""Share by which a delay is made longer or shorter, so that keys do not march in step."""


class WorkQueue:
    """A deduplicating queue of keys and the workers that handle them."""

    def __init__(
        self,
        handle: Callable[[str], Awaitable[float | None]],
        *,
        num_workers: int,
        rng: random.Random,
    ) -> None:
        """Handle keys by `handle`, which returns the seconds until the key's next turn."""
        self._handle = handle
        self._num_workers = num_workers
        self._rng = rng
        self._ready: asyncio.PriorityQueue[tuple[int, int, str]] = asyncio.PriorityQueue()
        """(turn at which the key was handled last, 0 for never; order of arrival; key)."""
        self._arrivals = itertools.count()
        self._turns = itertools.count(1)
        self._last_turns: dict[str, int] = {}
        self._waiting: set[str] = set()
        self._newcomers: deque[float] = deque(maxlen=CROWD)
        """When the last keys came that were never handled, or not since they needed nothing."""
        self._running: set[str] = set()
        self._again: set[str] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._failures: dict[str, int] = {}

    @property
    def depth(self) -> int:
        """Keys that wait for a worker."""
        return len(self._waiting)

    @property
    def is_crowded(self) -> bool:
        """Whether a crowd of new keys has come within the last minute."""
        now = asyncio.get_running_loop().time()
        return len(self._newcomers) == CROWD and now - self._newcomers[0] < CROWD_SECONDS

    def enqueue(self, key: str) -> None:
        """Look at the key soon. A key that waits already is not added again."""
        self._cancel_timer(key)
        if key in self._running:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            if key not in self._last_turns:
                self._newcomers.append(asyncio.get_running_loop().time())
            self._ready.put_nowait((self._last_turns.get(key, 0), next(self._arrivals), key))

    def enqueue_after(self, key: str, seconds: float) -> None:
        """Look at the key after a while, or earlier if it is enqueued before."""
        self._cancel_timer(key)
        loop = asyncio.get_running_loop()
        self._timers[key] = loop.call_later(self._add_jitter(seconds), self.enqueue, key)

    async def run(self) -> None:
        """Handle keys until cancelled. A key in hand is cut off: a pass may be, at any await."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._num_workers):
                    group.create_task(self._work())
        finally:
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()

    async def _work(self) -> None:
        while True:
            *_, key = await self._ready.get()
            self._waiting.discard(key)
            self._running.add(key)
            self._last_turns[key] = next(self._turns)
            try:
                await self._handle_once(key)
            finally:
                self._running.discard(key)
                if key in self._again:
                    self._again.discard(key)
                    self.enqueue(key)

    async def _handle_once(self, key: str) -> None:
        try:
            requeue_after = await self._handle(key)
        except Exception as error:  # whatever went wrong with one key must not stop the others
            failures = self._failures.get(key, 0)
            self._failures[key] = failures + 1
            longer = 2.0 ** min(failures, MAX_DOUBLINGS)
            delay = min(FIRST_BACKOFF_SECONDS * longer, MAX_BACKOFF_SECONDS)
            logger.warning("%s: %s; again in %.1f s", key, _describe(error), delay)
            self.enqueue_after(key, delay)
            return
        self._failures.pop(key, None)
        if requeue_after is None:
            self._last_turns.pop(key, None)
        elif key not in self._again:
            self.enqueue_after(key, requeue_after)

    def _cancel_timer(self, key: str) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def _add_jitter(self, seconds: float) -> float:
        return seconds * self._rng.uniform(1.0 - JITTER, 1.0 + JITTER)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
