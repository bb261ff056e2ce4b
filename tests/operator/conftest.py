"""The definition on a real apiserver, and jobs to put there."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.control_plane import ControlPlane

CRD = Path(__file__).parents[2] / "crds" / "llmtrainingjobs.yaml"


@pytest.fixture(scope="session")
def server(control_plane: ControlPlane) -> ControlPlane:
    """A control plane that serves LLMTrainingJobs by the committed definition."""
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRD))
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(CRD))
    return control_plane
