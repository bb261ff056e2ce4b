"""What a pod knows of its ranks: the newest word of each, for `/progress` and `/metrics`.

Below: the updates that ranks send. Above: `agent` posts them here, `server` and `metrics` read.
Read and written from several threads; every method takes the lock.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

from llmtrain_api.records import ProgressRecord, RankPhase, RankProgress, Stage
from llmtrain_trainer.exit_record import Whereabouts
from llmtrain_trainer.progress import RankUpdate

KEPT_OVER_ROUNDS = ("validation_loss", "checkpoint_step", "storage_safe")
"""Facts that stay true when the ranks are started anew."""


class ProgressBoard:
    """The newest facts of one pod."""

    def __init__(
        self,
        *,
        stage: Stage,
        index: int,
        incarnation: int,
        total_steps: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Begin with nothing known; `clock` gives Unix seconds."""
        self._lock = threading.Lock()
        self._stage = stage
        self._index = index
        self._incarnation = incarnation
        self._total_steps = total_steps
        self._clock = clock
        self._rounds = 0
        self._step = 0
        self._facts: dict[str, float | bool] = {}
        self._ranks: dict[int, RankProgress] = {}
        self._round_seconds: dict[str, float] = {}
        self._earlier_seconds: Counter[str] = Counter()

    def begin_round(self) -> None:
        """Take note that the ranks are started (again)."""
        with self._lock:
            self._rounds += 1
            self._facts = {n: v for n, v in self._facts.items() if n in KEPT_OVER_ROUNDS}
            self._ranks = {}
            self._earlier_seconds.update(self._round_seconds)
            self._round_seconds = {}

    def post(self, update: RankUpdate) -> None:
        """Take what a rank says. Facts and phases are the word of the pod's first rank."""
        with self._lock:
            self._ranks[update.rank] = RankProgress(
                rank=update.rank,
                phase=update.phase,
                step=update.step,
                heartbeat=update.sent_at,
            )
            if update.rank == min(self._ranks):
                self._facts.update(update.facts)
                self._round_seconds = update.phase_seconds
                # A rank that is still restoring says step 0, which is not the run's step.
                self._step = update.step or self._step

    def read_progress(self) -> ProgressRecord:
        """Return everything as the contract has it."""
        with self._lock:
            return ProgressRecord.model_validate(
                {
                    "stage": self._stage,
                    "index": self._index,
                    "incarnation": self._incarnation,
                    "round": self._rounds,
                    "step": self._step,
                    "total_steps": self._total_steps,
                    **self._facts,
                    "phase_seconds": self._round_seconds,
                    "ranks": [self._ranks[rank] for rank in sorted(self._ranks)],
                    "now": self._clock(),
                }
            )

    def sum_phase_seconds(self) -> dict[str, float]:
        """Return the seconds of the pod's first rank by phase, over all rounds of this pod."""
        with self._lock:
            return dict(self._earlier_seconds + Counter(self._round_seconds))

    @property
    def checkpoint_step(self) -> int | None:
        """Newest committed checkpoint that is known here."""
        with self._lock:
            step = self._facts.get("checkpoint_step")
            return None if step is None else int(step)

    @property
    def phases(self) -> dict[int, RankPhase]:
        """Return the phase of each rank that has said something in this round."""
        with self._lock:
            return {rank: progress.phase for rank, progress in self._ranks.items()}

    def locate(self, rank: int | None = None) -> Whereabouts:
        """Say where the pod is, for its exit record."""
        checkpoint_step = self.checkpoint_step
        with self._lock:
            return Whereabouts(rank=rank, step=self._step or None, checkpoint_step=checkpoint_step)
