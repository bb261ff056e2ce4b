"""What a rank says of itself while it works.

Below: the phases of the contract. Above: the stages report here; the agent receives the
updates over a pipe, answers `/progress` and exports metrics from them.

Reporting costs a pipe write and must never stop training: a send that fails means that the
agent is gone, and then the rank is about to be killed anyway.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from llmtrain_api.records import RankPhase


@dataclass(frozen=True, slots=True, kw_only=True)
class RankUpdate:
    """The newest facts of one rank. Facts that are absent keep their last value."""

    rank: int
    phase: RankPhase
    step: int
    sent_at: float
    """Unix seconds."""
    facts: dict[str, float | bool | str] = field(default_factory=dict)
    """Fields of `ProgressRecord` by name: loss, validation_loss, checkpoint_step, …"""
    phase_seconds: dict[str, float] = field(default_factory=dict)
    """Seconds that this rank has spent in each phase of this round."""


class Reporter:
    """A rank's line to its agent."""

    def __init__(
        self,
        rank: int,
        send: Callable[[RankUpdate], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Report as `rank` through `send`; `clock` gives Unix seconds."""
        self._rank = rank
        self._send = send
        self._clock = clock
        self._phase = RankPhase.STARTING
        self._phase_since = clock()
        self._phase_seconds: dict[str, float] = {}
        self._step = 0

    def report(self, *, step: int | None = None, **facts: float | bool | str) -> None:
        """Tell the agent where this rank is, and any newer facts."""
        if step is not None:
            self._step = step
        self._send(
            RankUpdate(
                rank=self._rank,
                phase=self._phase,
                step=self._step,
                sent_at=self._clock(),
                facts=facts,
                phase_seconds=dict(self._phase_seconds),
            )
        )

    def enter(self, phase: RankPhase) -> None:
        """Begin a phase; the time since the last change counts to the phase that ends."""
        now = self._clock()
        spent = self._phase_seconds.get(self._phase, 0.0)
        self._phase_seconds[self._phase] = spent + now - self._phase_since
        self._phase, self._phase_since = phase, now
        self.report()

    @contextmanager
    def during(self, phase: RankPhase) -> Iterator[None]:
        """Spend a block in `phase`, then return to the phase before it."""
        before = self._phase
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)
