"""A few random kills of each kind; `make bench-faults` makes hundreds of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.agent_world import AgentWorld
from testbed.control_plane import ControlPlane
from testbed.soak import STEPS_PER_KILL, SoakResult, SoakWorld, run_soak
from testbed.soak_agents import SoakAgents
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


@pytest.mark.patient
def test_a_run_in_a_cluster_ends_as_if_nothing_had_died(
    server: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    other = f"{namespace}-killed"
    server.create_namespace(other)

    def make(name: str) -> SoakAgents:
        return SoakAgents(AgentWorld(server, name, tmp_path / name))

    undisturbed = run(lambda: make(namespace), seed=None, expected=None)
    killed = run(lambda: make(other), seed=SEED, expected=undisturbed.digest)
    server.kubectl("delete", "namespace", other, "--wait=false")
    assert killed.complaints == []
    assert killed.num_kills == NUM_KILLS
