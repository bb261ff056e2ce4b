"""Noticing that ranks stand still, by their progress and not by a timeout that fits nobody.

Below: what ranks say of themselves (`progress`). Above: `supervision` asks from time to time.

How long a step or an evaluation may take is learned from how long they took in this pod: the
longest of the newest ones, twice, and some slack. Other phases differ from one time to the next
(the last checkpoint waits for its upload), and get a long time, as has what was never measured.
A rank that waits for a stuck peer stands still as well, so a verdict names all ranks of the pod
that do, the one that was silent first at the head.

The idea is that of NVIDIA's resiliency extension and of HyperPod's log rules; the limits here
need no configuration.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from llmtrain_api.records import RankPhase
from llmtrain_trainer.progress import RankUpdate

USUAL_FACTOR = 2.0
"""A phase may take this many times what it usually takes …"""

SLACK_SECONDS = 4.5
"""… and this much more: with the half second between two looks, five."""

UNMEASURED_SECONDS = 3600.0
"""What a phase may take that is not learned, or not yet."""

LEARNED_PHASES = frozenset({RankPhase.TRAINING, RankPhase.EVALUATING})
"""Phases that do the same work each time."""

MEASURES_KEPT = 64
"""Of so many newest durations the longest counts as usual."""

MIN_STEPS_MEASURED = 3
"""The first steps of a round are no measure: memory is touched and kernels are chosen there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """Ranks that stand still."""

    ranks: tuple[int, ...]
    """Global ranks, the one that was silent first at the head."""

    phase: RankPhase
    """What that one was doing."""

    step: int
    """The step it was at."""

    silent_seconds: float
    limit_seconds: float

    def describe(self) -> str:
        """Say who stands still, since when, and what would have been usual."""
        who = ", ".join(map(str, self.ranks))
        return (
            f"rank{'s' if len(self.ranks) > 1 else ''} {who} stood still for "
            f"{self.silent_seconds:.1f} s, in phase {self.phase} at step {self.step} "
            f"(at most {self.limit_seconds:.1f} s would be usual)"
        )


@dataclass(slots=True, kw_only=True)
class _Heartbeat:
    """The newest word of a rank, by this pod's clock."""

    heard_at: float
    since: float
    """When its present phase, or the present step, began."""
    phase: RankPhase
    step: int
    steps_seen: int = 0
    """Whole steps of this round."""


class Watchdog:
    """Learns how long things take, and tells when ranks of this pod take far longer."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with nothing measured; `clock` gives monotonic seconds."""
        self._clock = clock
        self._beats: dict[int, _Heartbeat] = {}
        self._measured: dict[RankPhase, deque[float]] = {}

    def begin_round(self) -> None:
        """Forget the ranks of the round before; what was measured stays known."""
        self._beats.clear()

    def hear(self, update: RankUpdate) -> None:
        """Take in a rank's update, and what it says of how long things take."""
        now = self._clock()
        before = self._beats.get(update.rank)
        beat = _Heartbeat(heard_at=now, since=now, phase=update.phase, step=update.step)
        if before is not None and (before.phase, before.step) == (update.phase, update.step):
            beat.since = before.since
            beat.steps_seen = before.steps_seen
        elif before is not None:
            beat.steps_seen = before.steps_seen
            self._measure(before, beat)
        self._beats[update.rank] = beat

    def find_limit(self, phase: RankPhase) -> float:
        """Return how many seconds a step, or a whole phase, may take."""
        measured = self._measured.get(phase)
        if not measured:
            return UNMEASURED_SECONDS
        return USUAL_FACTOR * max(measured) + SLACK_SECONDS

    def find_stall(self) -> Stall | None:
        """Return who stands still, if anybody does."""
        now = self._clock()
        silent = sorted(
            (beat.heard_at, rank)
            for rank, beat in self._beats.items()
            if beat.phase is not RankPhase.FINISHED
            and now - beat.heard_at > self._find_limit_now(beat)
        )
        if not silent:
            return None
        first = self._beats[silent[0][1]]
        return Stall(
            ranks=tuple(rank for _, rank in silent),
            phase=first.phase,
            step=first.step,
            silent_seconds=now - first.heard_at,
            limit_seconds=self._find_limit_now(first),
        )

    def list_silent(self, seconds: float) -> tuple[int, ...]:
        """Return the ranks that have said nothing for so long."""
        now = self._clock()
        return tuple(r for r, beat in self._beats.items() if now - beat.heard_at > seconds)

    def _find_limit_now(self, beat: _Heartbeat) -> float:
        # The first steps of a round may take far longer than those that follow.
        if beat.phase is RankPhase.TRAINING and beat.steps_seen < MIN_STEPS_MEASURED:
            return UNMEASURED_SECONDS
        return self.find_limit(beat.phase)

    def _measure(self, before: _Heartbeat, beat: _Heartbeat) -> None:
        """Learn from what ended when a rank went on from one heartbeat to the next."""
        if before.phase is RankPhase.TRAINING:
            if beat.step <= before.step:
                return  # another phase began between two steps: that is no whole step
            beat.steps_seen += 1
            if beat.steps_seen <= MIN_STEPS_MEASURED:
                return
        if before.phase in LEARNED_PHASES:
            kept = self._measured.setdefault(before.phase, deque(maxlen=MEASURES_KEPT))
            kept.append(beat.since - before.since)
