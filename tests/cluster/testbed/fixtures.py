"""Pytest fixtures of the test bed: what a test names as an argument, it gets running.

The top of `testbed`; ``tests/conftest.py`` registers it. Servers live for the whole session and
start when the first test asks for them.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from testbed.cluster import Cluster
from testbed.control_plane import ControlPlane
from testbed.images import list_project_images
from testbed.minio import MinioServer
from testbed.prometheus import Prometheus
from testbed.requirements import find_missing, find_repository


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A running control plane without nodes: objects live, pods stay Pending."""
    plane = ControlPlane(tmp_path_factory.mktemp("control-plane"))
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinioServer]:
    """A running MinIO on the loopback address, without buckets."""
    server = MinioServer(tmp_path_factory.mktemp("minio"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A fresh namespace of `control_plane`, deleted after the test."""
    yield from _use_namespace(control_plane)


@pytest.fixture(scope="session")
def two_nodes() -> Iterator[Cluster]:
    """A running cluster of two real nodes that have the project's own images.

    Skips, naming what the machine lacks; with ``LLMTRAIN_REQUIRE_NODES=1``, as in CI, fails.
    """
    if missing := find_missing():
        reason = f"real nodes need {', '.join(missing)} (make build-nodes installs packages)"
        if os.environ.get("LLMTRAIN_REQUIRE_NODES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    cluster = Cluster(list_project_images(find_repository()))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def node_namespace(two_nodes: Cluster) -> Iterator[str]:
    """A fresh namespace of `two_nodes`, deleted after the test."""
    yield from _use_namespace(two_nodes.control_plane)


@pytest.fixture(scope="session")
def pod_minio(
    two_nodes: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MinioServer]:
    """A running MinIO that the pods of `two_nodes` reach, without buckets."""
    server = MinioServer(tmp_path_factory.mktemp("pod-minio"), address=two_nodes.host_address)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[[Sequence[dict[str, Any]]], Prometheus]]:
    """Starts a Prometheus with the scrape configurations that the test gives it."""
    started: list[Prometheus] = []

    def start(scrape_configurations: Sequence[dict[str, Any]]) -> Prometheus:
        server = Prometheus(tmp_path / f"prometheus-{len(started)}", scrape_configurations)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.stop()


def _use_namespace(plane: ControlPlane) -> Iterator[str]:
    name = f"test-{secrets.token_hex(4)}"
    plane.create_namespace(name)
    yield name
    plane.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")
