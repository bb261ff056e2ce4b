"""Nodes whose pods are real agents of this machine: a job in a cluster, without root or containers.

Below: `agent_kubelet`, which is a process of its own. Above: `agent_world` puts an operator, a
store and a job on top.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from testbed.agent_kubelet import NODE_LABEL
from testbed.agents import list_rank_processes
from testbed.control_plane import ControlPlane
from testbed.processes import ServerProcess

START_SECONDS = 60
MAX_OCTET = 254


class AgentNodes:
    """Nodes of `server` that take the pods of one namespace, where these ask for them."""

    def __init__(
        self, server: ControlPlane, namespace: str, directory: Path, names: Sequence[str]
    ) -> None:
        self.names = tuple(names)
        self._server = server
        self._namespace = namespace
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        # Loopback addresses that no other test bed of this machine is likely to draw as well.
        first, second = (random.SystemRandom().randint(1, MAX_OCTET) for _ in range(2))
        self.process = ServerProcess(
            "agent kubelet",
            [
                sys.executable, "-m", "testbed.agent_kubelet",
                f"--namespace={namespace}",
                f"--network=127.{first}.{second}",
                f"--directory={directory}",
                *self.names,
            ],
            log=directory / "kubelet.log",
            environment={
                "KUBECONFIG": str(server.kubeconfig),
                "PYTHONPATH": str(Path(__file__).parents[1]),
            },
        )  # fmt: skip

    def start(self) -> None:
        """Start them, and return when they are Ready and take pods."""
        self.process.start()
        self.process.wait_ready(self._are_ready, seconds=START_SECONDS)

    def stop(self) -> None:
        """Kill what runs on them, and delete them."""
        self.process.kill()
        self._server.kubectl("delete", "node", *self.names, "--wait=false", "--ignore-not-found")

    def ask_for(self) -> dict[str, Any]:
        """What `spec.workers` of a job must say to get there."""
        return {
            "nodeSelector": {NODE_LABEL: self._namespace},
            "tolerations": [{"key": NODE_LABEL, "operator": "Exists", "effect": "NoSchedule"}],
        }

    def find_agent(self, pod: str) -> int:
        """Return the process id of a pod's agent."""
        return int((self._directory / pod / "pid").read_text())

    def list_ranks(self, pod: str) -> list[int]:
        """Return the process ids of a pod's ranks."""
        return list_rank_processes(self.find_agent(pod))

    def kill_agent(self, pod: str) -> None:
        """SIGKILL the first process of a pod; its ranks go with it."""
        os.kill(self.find_agent(pod), signal.SIGKILL)

    def read_log(self, pod: str) -> str:
        """Return what a pod has written."""
        return (self._directory / pod / "log").read_text(errors="replace")

    def _are_ready(self) -> bool:
        nodes = self._server.kubectl_json("get", "nodes", "-l", f"{NODE_LABEL}={self._namespace}")
        ready = [
            node["metadata"]["name"]
            for node in nodes["items"]
            if {"type": "Ready", "status": "True"}.items()
            <= {k: v for c in node["status"].get("conditions", ()) for k, v in c.items()}.items()
            and all(t["key"] == NODE_LABEL for t in node["spec"].get("taints", []))
        ]
        return set(ready) == set(self.names)
