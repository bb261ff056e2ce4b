"""Random kills with fixed seeds: whatever dies, a run ends as the undisturbed one did.

Below: `soak_machine`, `soak_agents`, `soak_nodes` (what there is to kill). Above:
`tests/faults/test_soak.py` kills a few, `tests/bench/bench_faults.py` hundreds.

After each kill the run must have come to a newer checkpoint before the next one follows, so that
what is tested is loss and return, and not how many failures in a row are forgiven. All through it:
no round begins from an older step than the newest checkpoint that was committed before. At the end:
losses and weights bit for bit, and every attempt counted once.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from llmtrain_api import JobStatus, ProgressRecord
from llmtrain_api.naming import name_process
from llmtrain_api.records import RankPhase, Stage
from testbed.small_job import CHECKPOINT_STEPS

DEADLINE_SECONDS = 300.0
"""From one kill to the next, on a busy machine."""
END_SECONDS = 1800.0
"""For a run of which nothing is killed any more."""
POLL_SECONDS = 0.02
JOB = "tiny"
"""The job of every world."""
MAX_STEPS_BEFORE_KILL = 2 * CHECKPOINT_STEPS
"""A kill follows a new checkpoint after at most so many steps: before, in and after a save."""
STEPS_PER_KILL = 6 * CHECKPOINT_STEPS
"""Length of a run for each kill: what is repeated, and what training does meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Something that can be killed."""

    name: str
    weight: int
    """Of 100 kills, about so many."""
    kill: Callable[[random.Random], Sequence[str]]
    """Does it, and returns the processes that the status must list as ended."""


class SoakWorld(Protocol):
    """A world with one job in it."""

    name: str

    def list_kinds(self) -> Mapping[str, Kind]:
        """Return what can be killed, by name."""

    def begin(self, steps: int) -> None:
        """Start the job."""

    def ask(self) -> ProgressRecord | None:
        """Return what worker 0 of the training stage says; None where it does not answer."""

    def read_status(self) -> JobStatus:
        """Return the job's status."""

    def await_end(self) -> JobStatus:
        """Wait until the job has succeeded; return its status."""

    def digest(self) -> str:
        """Return a digest of the run's losses and weights."""

    def close(self) -> None:
        """Leave nothing running."""


@dataclass(slots=True, kw_only=True)
class SoakResult:
    """What became of one run."""

    world: str
    seed: int | None
    """None: undisturbed."""
    steps: int
    kills: dict[str, int] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    """The processes that the status must list as ended. Who leaves may be killed once more."""
    digest: str = ""
    complaints: list[str] = field(default_factory=list)
    """Which promises were broken."""
    seconds: float = 0.0

    @property
    def num_kills(self) -> int:
        """Return all its kills."""
        return sum(self.kills.values())

    def write(self, path: Path) -> None:
        """Keep it."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> SoakResult:
        """Read what `write` wrote."""
        return cls(**json.loads(path.read_text()))


def run_soak(
    world: SoakWorld, *, seed: int | None, num_kills: int, steps: int, expected: str | None = None
) -> SoakResult:
    """Run the job of `world` to its end with kills by `seed`, or undisturbed where that is None."""
    began = time.monotonic()
    result = SoakResult(world=world.name, seed=seed, steps=steps)
    world.begin(steps)
    if seed is not None:
        _Killer(world, random.Random(seed), result).kill(num_kills)
    status = world.await_end()
    result.digest = world.digest()
    if expected is not None and result.digest != expected:
        result.complaints.append(f"losses or weights differ: {result.digest} is not {expected}")
    result.complaints += _check_attempts(status, result)
    result.seconds = round(time.monotonic() - began, 1)
    return result


class _Killer:
    """Kills and watches."""

    def __init__(self, world: SoakWorld, rng: random.Random, result: SoakResult) -> None:
        self._world = world
        self._rng = rng
        self._result = result
        self._round: tuple[int, int] | None = None
        self._committed = 0

    def kill(self, num_kills: int) -> None:
        """Kill that often, or until the run is at its end."""
        kinds = self._world.list_kinds()
        names = sorted(kinds)
        weights = [kinds[name].weight for name in names]
        killed: Counter[str] = Counter()
        for _ in range(num_kills):
            progress = self._await(partial(_has_saved, self._committed))
            if progress is None:
                return
            target = progress.step + self._rng.randrange(MAX_STEPS_BEFORE_KILL)
            if self._await(partial(_has_come_to, target)) is None:
                return
            (name,) = self._rng.choices(names, weights)
            ended = set(self._result.ended).union(kinds[name].kill(self._rng))
            self._result.ended = sorted(ended)
            killed[name] += 1
            self._result.kills = dict(killed)

    def _await(self, holds: Callable[[ProgressRecord], bool]) -> ProgressRecord | None:
        """Wait until something holds for a round that trains; None where training is over."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline:
            progress = self._world.ask()
            if progress is not None:
                self._note(progress)
                if self._round == (progress.incarnation, progress.round) and holds(progress):
                    return progress
            elif self._round is not None and self._world.read_status().stage is Stage.EVALUATE:
                return None
            time.sleep(POLL_SECONDS)
        raise TimeoutError(
            f"{self._world.name}, seed {self._result.seed}, after {self._result.kills}: "
            f"{self._world.read_status().dump()}"
        )

    def _note(self, progress: ProgressRecord) -> None:
        now = (progress.incarnation, progress.round)
        is_training = any(rank.phase is RankPhase.TRAINING for rank in progress.ranks)
        if now != self._round and is_training:
            began = progress.resumed_step or 0
            if began < self._committed:
                self._result.complaints.append(
                    f"round {now} began from step {began}, and {self._committed} was committed"
                )
            self._round = now
        self._committed = max(self._committed, progress.checkpoint_step or 0)


def _has_saved(after: int, progress: ProgressRecord) -> bool:
    return (progress.checkpoint_step or 0) > after


def _has_come_to(step: int, progress: ProgressRecord) -> bool:
    return progress.step >= step


def _check_attempts(status: JobStatus, result: SoakResult) -> list[str]:
    known = [name_process(JOB, a.stage, a.index, a.incarnation) for a in status.attempts]
    complaints = []
    if sorted(known) != result.ended:
        complaints.append(f"{sorted(known)} are listed as ended, and {result.ended} did")
    if status.restarts != len(result.ended):
        complaints.append(f"{status.restarts} restarts were counted of {len(result.ended)}")
    return complaints
