"""The worlds that faults happen in: operators behind a proxy, and jobs whose pods are agents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.agent_world import AgentWorld
from testbed.api_proxy import ApiProxy
from testbed.cluster import Cluster
from testbed.control_plane import ControlPlane
from testbed.installation import Installation
from testbed.operators import Jobs, Operator
from testbed.requirements import find_repository


@pytest.fixture(scope="session")
def server(control_plane: ControlPlane) -> ControlPlane:
    """A control plane that serves LLMTrainingJobs by the committed definition."""
    control_plane.define(find_repository() / "crds" / "llmtrainingjobs.yaml")
    return control_plane


@pytest.fixture
def jobs(server: ControlPlane, namespace: str) -> Jobs:
    """A fresh namespace and what a user and a kubelet do in it."""
    return Jobs(server, namespace)


@pytest.fixture
def proxy(server: ControlPlane, tmp_path: Path) -> Iterator[ApiProxy]:
    """What breaks the talk of `operator` with the apiserver."""
    proxy = ApiProxy(server, tmp_path)
    proxy.start()
    yield proxy
    proxy.stop()


@pytest.fixture
def operator(
    server: ControlPlane, namespace: str, tmp_path: Path, proxy: ApiProxy
) -> Iterator[Operator]:
    """A running operator of `namespace` that reaches the apiserver through `proxy`."""
    operator = Operator(server, tmp_path, namespace, "operator-0", kubeconfig=proxy.kubeconfig)
    operator.start()
    yield operator
    operator.process.stop()


@pytest.fixture
def world(server: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[AgentWorld]:
    """A job of `namespace` whose pods are agents on this machine."""
    world = AgentWorld(server, namespace, tmp_path)
    try:
        world.start()
        yield world
    finally:
        world.stop()


@pytest.fixture(scope="module")
def installation(two_nodes: Cluster) -> Iterator[Installation]:
    """The chart, installed by Helm on two real nodes."""
    installation = Installation(two_nodes)
    installation.install()
    yield installation
    installation.uninstall()
