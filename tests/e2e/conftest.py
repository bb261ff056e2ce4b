"""What jobs need end to end: the chart on two real nodes, and a namespace for jobs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed.cluster import Cluster
from testbed.installation import Installation, restrict_namespace
from testbed.operators import Jobs


@pytest.fixture(scope="module")
def installation(two_nodes: Cluster) -> Iterator[Installation]:
    """The chart, installed by Helm on the two nodes."""
    installation = Installation(two_nodes)
    installation.install()
    yield installation
    installation.uninstall()


@pytest.fixture
def jobs(two_nodes: Cluster, node_namespace: str) -> Jobs:
    """The jobs of a namespace under Pod Security `restricted`."""
    two_nodes.control_plane.apply(restrict_namespace(node_namespace))
    return Jobs(two_nodes.control_plane, node_namespace)
