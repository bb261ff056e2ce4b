"""One event for everything that may concern an agent, and the wish that it should leave.

Above: `supervision` and `round_runner` sleep here. Whatever happens (a rank's end, the leader's
word, a signal) rings, and whoever waits looks at the facts anew: no news can be missed or come too
late.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress


class Alarm:
    """Wakes the agent's one story."""

    def __init__(self) -> None:
        """Begin silently; nobody has asked to leave."""
        self._event = asyncio.Event()
        self.stop_at: float | None = None
        """Once asked to leave: when the time for it is over (monotonic seconds)."""

    def ring(self) -> None:
        """Something has happened."""
        self._event.set()

    def request_stop(self, grace_seconds: float) -> None:
        """Ask to leave within that time; who is asked twice has no more of it."""
        if self.stop_at is None:
            self.stop_at = time.monotonic() + grace_seconds
            self.ring()

    async def sleep(self, *deadlines: float | None) -> None:
        """Sleep until something happens, or the first deadline that is still ahead."""
        now = time.monotonic()
        ahead = [
            deadline - now for deadline in deadlines if deadline is not None and deadline > now
        ]
        with suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), min(ahead) if ahead else None)
        self._event.clear()

    async def until(self, condition: Callable[[], bool], *, deadline: float | None = None) -> None:
        """Sleep until `condition` holds or `deadline` is past."""
        while not condition() and (deadline is None or time.monotonic() < deadline):
            await self.sleep(deadline)
