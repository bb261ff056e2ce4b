"""The project's own chart, installed by Helm on a cluster that has the project's own images.

Below: `cluster`, `images`, Helm. Above: the end-to-end test and the benchmark of starting.
"""

from __future__ import annotations

import shlex
import subprocess
from typing import Any

from testbed.binaries import ensure_binary
from testbed.cluster import Cluster
from testbed.containers import kill_main_process
from testbed.documents import find_command
from testbed.images import REGISTRY
from testbed.requirements import find_repository

RELEASE = "llmtrain"
SYSTEM_NAMESPACE = "llmtrain-system"
OPERATOR_COMMAND = "llmtrain_operator"
INSTALL_SECONDS = 180
VALUES = (
    *(f"image.repository={REGISTRY}/operator", "image.tag=test", "image.pullPolicy=Never"),
    *(f"trainer.image.repository={REGISTRY}/trainer", "trainer.image.tag=test"),
    # What a node has is taken; what it lacks is asked of a registry that is not there.
    "trainer.image.pullPolicy=IfNotPresent",
)


class Installation:
    """A release of the chart, as a cluster's administrator installs it."""

    def __init__(self, cluster: Cluster) -> None:
        self.server = cluster.control_plane

    def install(self) -> None:
        """Install the chart as the README says; returns when the operator is ready.

        Raises:
            RuntimeError: Helm refused, or the operator did not become ready in time.
        """
        self.server.apply(restrict_namespace(SYSTEM_NAMESPACE))
        _, *words = shlex.split(find_command("helm install"))
        assert words[1] == RELEASE
        self._helm(
            *words,
            *(f"--set-string={value}" for value in VALUES),
            *("--wait", f"--timeout={INSTALL_SECONDS}s"),
        )

    def uninstall(self) -> None:
        """Remove the release; the chart keeps the definition, and so the jobs."""
        self._helm("uninstall", RELEASE, "--wait", f"--timeout={INSTALL_SECONDS}s")

    def find_operator(self) -> dict[str, Any]:
        """The operator's pod."""
        selector = f"app.kubernetes.io/instance={RELEASE}"
        pods = self.server.kubectl_json("-n", SYSTEM_NAMESPACE, "get", "pods", "-l", selector)
        pod: dict[str, Any] = pods["items"][0]
        return pod

    def kill_operator(self) -> bool:
        """SIGKILL the operator in its container; False where it does not run just now."""
        return kill_main_process(self.find_operator(), OPERATOR_COMMAND)

    def stop_operator(self) -> None:
        """Take the operator away, as an administrator would, until `start_operator`."""
        self._scale(0)

    def start_operator(self) -> None:
        """Bring the operator back; returns when it is ready."""
        self._scale(1)

    def _scale(self, replicas: int) -> None:
        name = f"deployment/{RELEASE}"
        self.server.kubectl("-n", SYSTEM_NAMESPACE, "scale", name, f"--replicas={replicas}")
        self.server.kubectl(
            "-n", SYSTEM_NAMESPACE, "rollout", "status", name, f"--timeout={INSTALL_SECONDS}s"
        )

    def _helm(self, *arguments: str) -> None:
        run = subprocess.run(
            [
                ensure_binary("helm"), *arguments,
                f"--namespace={SYSTEM_NAMESPACE}", f"--kubeconfig={self.server.kubeconfig}",
            ],
            cwd=find_repository(),
            text=True,
            capture_output=True,
        )  # fmt: skip
        if run.returncode != 0:
            pods = self.server.kubectl("-n", SYSTEM_NAMESPACE, "describe", "pods")
            raise RuntimeError(f"helm {arguments[0]} failed:\n{run.stderr}\n{pods[-3000:]}")


def restrict_namespace(name: str) -> dict[str, Any]:
    """A namespace under Pod Security `restricted`."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": name,
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        },
    }
