"""The definition on a real apiserver, operators as processes, and a namespace for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testbed.control_plane import ControlPlane
from testbed.operators import Jobs, Operator

CRD = Path(__file__).parents[2] / "crds" / "llmtrainingjobs.yaml"


@pytest.fixture(scope="session")
def server(control_plane: ControlPlane) -> ControlPlane:
    """A control plane that serves LLMTrainingJobs by the committed definition."""
    control_plane.define(CRD)
    return control_plane


@pytest.fixture
def jobs(server: ControlPlane, namespace: str) -> Jobs:
    """A fresh namespace and what a user and a kubelet do in it."""
    return Jobs(server, namespace)


@pytest.fixture
def make_operator(
    server: ControlPlane, namespace: str, tmp_path: Path
) -> Iterator[Callable[[str], Operator]]:
    """Makes operators of `namespace` by name, not yet started."""
    made: list[Operator] = []

    def make(name: str) -> Operator:
        made.append(Operator(server, tmp_path, namespace, name))
        return made[-1]

    yield make
    for operator in made:
        operator.process.stop()


@pytest.fixture
def operator(make_operator: Callable[[str], Operator]) -> Operator:
    """A running operator of `namespace`."""
    started = make_operator("operator-0")
    started.start()
    return started
