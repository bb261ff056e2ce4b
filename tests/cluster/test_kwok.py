from __future__ import annotations

from pathlib import Path

from testbed.control_plane import ControlPlane
from testbed.kwok import KwokNodes
from testbed.processes import wait_until


def test_imitated_nodes_run_and_delete_pods(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    nodes = KwokNodes(tmp_path, control_plane, count=3)
    nodes.start()
    try:
        control_plane.kubectl(
            "create", "deployment", "workers", "--image=none", "--replicas=6", "-n", namespace
        )
        control_plane.kubectl(
            "rollout", "status", "deployment/workers", "--timeout=60s", "-n", namespace
        )
        pods = control_plane.kubectl_json("get", "pods", "-n", namespace)["items"]
        assert {pod["status"]["phase"] for pod in pods} == {"Running"}
        control_plane.kubectl("delete", "deployment", "workers", "-n", namespace)
        wait_until(
            lambda: not control_plane.kubectl_json("get", "pods", "-n", namespace)["items"],
            seconds=60,
            what="deleted pods to go",
        )
    finally:
        nodes.stop()
