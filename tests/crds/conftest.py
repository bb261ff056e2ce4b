"""The definition under test, on a real apiserver."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.control_plane import ControlPlane

CRD = Path(__file__).parents[2] / "crds" / "llmtrainingjobs.yaml"


@pytest.fixture(scope="module")
def server(control_plane: ControlPlane) -> ControlPlane:
    """A control plane that serves LLMTrainingJobs by the committed definition."""
    control_plane.define(CRD)
    return control_plane
