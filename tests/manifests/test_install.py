"""The plain install: it is the chart's, and a real apiserver takes it as a whole."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

from testbed.binaries import ensure_binary
from testbed.control_plane import ControlPlane

ROOT = Path(__file__).parents[2]
INSTALL = ROOT / "manifests" / "install"


def test_it_is_the_chart_with_default_values() -> None:
    arguments = ["template", "llmtrain", "helm/llmtrain", "--namespace", "llmtrain-system"]
    rendered = subprocess.run(
        [ensure_binary("helm"), *arguments], cwd=ROOT, text=True, capture_output=True, check=True
    ).stdout
    assert rendered == (INSTALL / "llmtrain.yaml").read_text(), (
        f"run: helm {' '.join(arguments)} > manifests/install/llmtrain.yaml"
    )


def test_a_real_server_takes_it(control_plane: ControlPlane) -> None:
    control_plane.kubectl("apply", "--server-side", "-f", str(INSTALL / "namespace.yaml"))
    applied = control_plane.kubectl(
        *("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict"),
        *("-k", str(INSTALL), "-o", "yaml"),
    )
    objects = yaml.safe_load(applied)["items"]
    kinds = {item["kind"] for item in objects}
    assert {"Namespace", "CustomResourceDefinition", "Deployment", "ClusterRoleBinding"} <= kinds
    managers = {item["metadata"]["labels"]["app.kubernetes.io/managed-by"] for item in objects}
    assert managers == {"kustomize"}
