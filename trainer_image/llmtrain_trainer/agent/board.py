"""What the ranks of a pod last said, put together: the state behind `/progress` and `/metrics`.

Below: the updates of `progress`. Above: `launcher` feeds it, `server` and `metrics` read it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from llmtrain_api.records import (
    MAX_MESSAGE_CHARACTERS,
    ProgressRecord,
    RankPhase,
    RankProgress,
    Stage,
)
from llmtrain_trainer.agent.exit_record import cut_text
from llmtrain_trainer.progress import RankUpdate

ROUND_FACTS = ("resumed_step", "loss_spikes", "straggler")
"""Facts that end with their round; the others keep their last value."""

UNBEGUN_PHASES = frozenset({RankPhase.STARTING, RankPhase.RENDEZVOUS, RankPhase.RESTORING})
"""Phases in which a rank has nothing yet that is worth saving."""


@dataclass(slots=True, kw_only=True)
class Recovery:
    """The way from one round's end to the next round's first step. Unix seconds on this pod."""

    lost_at: float
    """The agent learned that the round is over."""
    reached: dict[RankPhase, float] = field(default_factory=dict)
    """When this pod's first rank came to a phase, in the order of phases."""
    stepped_at: float | None = None
    """It had done its first step."""

    def list_parts(self) -> dict[str, float]:
        """Return seconds by part, as far as they have passed.

        respawn: killing what is left, agreeing on a round, forking. rendezvous: joining the
        other ranks. restore: data, model and checkpoint. first_step: the first step.
        """
        moments = [
            self.lost_at,
            self.reached.get(RankPhase.RENDEZVOUS),
            self.reached.get(RankPhase.RESTORING),
            self.reached.get(RankPhase.TRAINING),
            self.stepped_at,
        ]
        parts: dict[str, float] = {}
        names = ("respawn", "rendezvous", "restore", "first_step")
        for name, begin, end in zip(names, moments, moments[1:], strict=False):
            if begin is None or end is None:
                break
            parts[name] = end - begin
        return parts


class Board:
    """Everything that an agent can tell about its ranks."""

    def __init__(
        self,
        *,
        stage: Stage,
        index: int,
        incarnation: int,
        total_steps: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Begin with nothing said; `clock` gives Unix seconds."""
        self._identity = {"stage": stage, "index": index, "incarnation": incarnation}
        self._total_steps = total_steps
        self._clock = clock
        self._facts: dict[str, float | bool | str] = {}
        self._ranks: dict[int, RankProgress] = {}
        self._phase_seconds: dict[str, float] = {}
        self._step = 0
        self._skips_before = 0
        self._last_loss = ""
        self._lost_step: int | None = None
        self.starts = 0
        """How many times ranks were started in this pod."""
        self.restarts: Counter[str] = Counter()
        """How many rounds ended without success, by how they ended."""
        self.recovery: Recovery | None = None
        """The newest recovery, possibly still under way."""
        self.checkpoint_at: float | None = None
        """When the newest checkpoint was heard of (Unix seconds)."""

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self._step

    @property
    def checkpoint_step(self) -> int | None:
        """Step of the newest checkpoint that is known here."""
        step = self._facts.get("checkpoint_step")
        return None if step is None else int(step)

    @property
    def has_begun(self) -> bool:
        """Whether some rank of the present round has come to its first step, or beyond."""
        return any(rank.phase not in UNBEGUN_PHASES for rank in self._ranks.values())

    def begin_round(self) -> None:
        """Ranks are about to be started."""
        self.starts += 1
        self._skips_before += int(self._facts.pop("checkpoint_skips", 0))
        self._ranks.clear()
        self._phase_seconds = {}
        for name in ROUND_FACTS:
            self._facts.pop(name, None)

    def lose_round(self, cause: str, message: str) -> None:
        """A round ended without success, for a cause in one word and in many."""
        self.restarts[cause] += 1
        self._last_loss = cut_text(message, MAX_MESSAGE_CHARACTERS)
        self._lost_step = self._step
        self.recovery = Recovery(lost_at=self._clock())

    def note_checkpoint(self, step: int | None) -> None:
        """Another worker tells of a checkpoint."""
        if step is not None and step > (self.checkpoint_step or 0):
            self._facts["checkpoint_step"] = step
            self.checkpoint_at = self._clock()

    def record(self, update: RankUpdate) -> None:
        """Take in what a rank says."""
        known = self._ranks.get(update.rank)
        ratio = update.facts.get("straggler_ratio")
        if ratio is None and known is not None:
            ratio = known.straggler_ratio
        self._ranks[update.rank] = RankProgress(
            rank=update.rank,
            phase=update.phase,
            step=update.step,
            heartbeat=update.sent_at,
            straggler_ratio=None if ratio is None else float(ratio),
        )
        if update.rank != min(self._ranks):
            return
        if update.facts.get("checkpoint_step", self.checkpoint_step) != self.checkpoint_step:
            self.checkpoint_at = update.sent_at
        self._facts.update(update.facts)
        self._phase_seconds = update.phase_seconds
        if self.recovery is not None and self.recovery.stepped_at is None:
            reached = self.recovery.reached
            reached.setdefault(update.phase, update.sent_at)
            stepped = known is not None and update.step > known.step
            if RankPhase.TRAINING in reached and stepped:
                self.recovery.stepped_at = update.sent_at
        if update.step > 0:
            self._step = update.step

    def read(self) -> ProgressRecord:
        """Return everything, as of now."""
        return ProgressRecord.model_validate(
            {
                **self._identity,
                **self._facts,
                "round": self.starts,
                "checkpoint_skips": self._skips_before
                + int(self._facts.get("checkpoint_skips", 0)),
                "last_loss": self._last_loss,
                "lost_step": self._lost_step,
                "step": self._step,
                "total_steps": self._facts.get("total_steps", self._total_steps),
                "phase_seconds": self._phase_seconds,
                "ranks": [self._ranks[rank] for rank in sorted(self._ranks)],
                "now": self._clock(),
            },
            extra="ignore",
        )
