"""The command `llmtrain`, as people call it."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.command_line import CommandLine
from testbed.control_plane import ControlPlane


@pytest.fixture
def llmtrain(tmp_path: Path) -> CommandLine:
    """The command, called in an empty folder, on a machine without a kubeconfig."""
    return CommandLine(tmp_path, {"KUBECONFIG": str(tmp_path / "absent")})


@pytest.fixture
def on_cluster(server: ControlPlane, tmp_path: Path) -> CommandLine:
    """The command, as the administrator of a real control plane calls it."""
    return CommandLine(tmp_path, {"KUBECONFIG": str(server.kubeconfig)})
