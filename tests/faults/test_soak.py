"""A few random kills of each kind; `make bench-faults` makes hundreds of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from testbed.soak import STEPS_PER_KILL, SoakResult, SoakWorld, run_soak
from testbed.soak_machine import SoakMachine

NUM_KILLS = 6
STEPS = NUM_KILLS * STEPS_PER_KILL
SEED = 20261124


def run(make: Callable[[], SoakWorld], *, seed: int | None, expected: str | None) -> SoakResult:
    world = make()
    try:
        return run_soak(world, seed=seed, num_kills=NUM_KILLS, steps=STEPS, expected=expected)
    finally:
        world.close()


def test_a_run_on_one_machine_ends_as_if_nothing_had_died(tmp_path: Path) -> None:
    undisturbed = run(lambda: SoakMachine(tmp_path / "0"), seed=None, expected=None)
    assert undisturbed.complaints == []
    killed = run(lambda: SoakMachine(tmp_path / "1"), seed=SEED, expected=undisturbed.digest)
    assert killed.complaints == []
    assert killed.num_kills == NUM_KILLS
