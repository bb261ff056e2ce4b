"""Pytest fixtures of the test bed: what a test names as an argument, it gets running.

The top of `testbed`; ``tests/conftest.py`` registers it. Servers live for the whole session and
start when the first test asks for them.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from testbed.control_plane import ControlPlane
from testbed.minio import MinioServer


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
    """A fresh namespace of the control plane, deleted after the test."""
    name = f"test-{secrets.token_hex(4)}"
    control_plane.create_namespace(name)
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")
