"""Imitated nodes by the hundred: kwok answers for their kubelets, without running anything.

Pods bound to them become Running at once and go at once when deleted (``kwok_stages.yaml``). It is
for load: what the API, the scheduler and our operator do is real.
"""

from __future__ import annotations

from pathlib import Path

from testbed.binaries import ensure_binary
from testbed.control_plane import ControlPlane
from testbed.processes import ServerProcess

READY_SECONDS = 120
STAGES = Path(__file__).parent / "kwok_stages.yaml"
NODE_LABEL = "type=kwok"
CAPACITY = {"cpu": "64", "memory": "512Gi", "pods": "110"}


class KwokNodes:
    """``count`` imitated nodes of ``control_plane``, named ``kwok-000`` and on."""

    def __init__(self, directory: Path, control_plane: ControlPlane, *, count: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._control_plane = control_plane
        self._count = count
        self._server = ServerProcess(
            "kwok",
            [
                ensure_binary("kwok"),
                f"--kubeconfig={control_plane.kubeconfig}",
                f"--config={STAGES}",
                f"--manage-nodes-with-label-selector={NODE_LABEL}",
                "--manage-all-nodes=false",
                "--node-lease-duration-seconds=40",
            ],
            log=directory / "kwok.log",
            # Its default configuration would be read from the user's home.
            environment={"KWOK_WORKDIR": str(directory)},
        )

    def start(self) -> None:
        """Make the nodes, and return when all are Ready."""
        self._server.start()
        self._control_plane.apply(*(_build_node(index) for index in range(self._count)))
        self._server.wait_ready(lambda: self._count_ready() == self._count, seconds=READY_SECONDS)

    def stop(self) -> None:
        """Delete the nodes and stop answering for them."""
        self._control_plane.kubectl("delete", "node", "-l", NODE_LABEL, "--wait=false")
        self._server.stop()

    def _count_ready(self) -> int:
        statuses = self._control_plane.kubectl(
            "get", "nodes", "-l", NODE_LABEL,
            '-o=jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}',
        )  # fmt: skip
        return statuses.split().count("True")


def _build_node(index: int) -> dict[str, object]:
    label, value = NODE_LABEL.split("=")
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"kwok-{index:03d}", "labels": {label: value}},
        "status": {"capacity": CAPACITY, "allocatable": CAPACITY},
    }
