"""One real node: containerd and a kubelet, in process, mount and control groups of their own.

`cluster` runs two of them. The node's first process owns a process namespace, so the kernel kills
every container with it, and a mount namespace, so every mount goes with the last process. That
makes a lost node of one SIGKILL, and a clean machine of every end.
"""

from __future__ import annotations

import os
import shlex
import signal
from contextlib import suppress
from pathlib import Path

import yaml

from testbed.binaries import ensure_binary
from testbed.cgroups import create_cgroup, remove_cgroup
from testbed.control_plane import ControlPlane
from testbed.images import SANDBOX_IMAGE
from testbed.network import CLUSTER_DOMAIN, CNI_PLUGINS, NodeNetwork
from testbed.processes import ServerProcess

READY_SECONDS = 90
FIRST_KUBELET_PORT = 10250
FIRST_HEALTH_PORT = 10350
# /run and the logs are the node's own, so nothing of it is left in the machine's.
PRIVATE_FOLDERS = ("/run", "/var/log")
SOCKET = "/run/containerd/containerd.sock"


class Node:
    """Node ``name``, the ``index``-th of its cluster, with its files under ``directory``.

    ``directory/containerd`` already holds containerd's store with the images (see `images`).
    """

    def __init__(
        self,
        directory: Path,
        *,
        name: str,
        index: int,
        cgroup: str,
        control_plane: ControlPlane,
        network: NodeNetwork,
    ) -> None:
        self.name = name
        self._directory = directory
        self._cgroup = cgroup
        self._control_plane = control_plane
        identity = control_plane.authority.issue(
            name,
            f"system:node:{name}",
            organisations=["system:nodes"],
            addresses=[network.node_address],
        )
        containerd = _write_containerd_configuration(directory, network)
        kubelet = directory / "kubelet.yaml"
        kubelet.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "kubelet.config.k8s.io/v1beta1",
                    "kind": "KubeletConfiguration",
                    "address": network.node_address,
                    "port": FIRST_KUBELET_PORT + index,
                    "healthzBindAddress": "127.0.0.1",
                    "healthzPort": FIRST_HEALTH_PORT + index,
                    "authentication": {
                        "anonymous": {"enabled": False},
                        "webhook": {"enabled": True},
                        "x509": {"clientCAFile": str(control_plane.authority.certificate)},
                    },
                    "authorization": {"mode": "Webhook"},
                    "tlsCertFile": str(identity.certificate),
                    "tlsPrivateKeyFile": str(identity.key),
                    "clusterDNS": [network.node_address],
                    "clusterDomain": CLUSTER_DOMAIN,
                    "resolvConf": str(_write_empty(directory / "resolv.conf")),
                    "containerRuntimeEndpoint": f"unix://{SOCKET}",
                    "cgroupDriver": "cgroupfs",
                    "cgroupRoot": f"/{cgroup}",
                    "enforceNodeAllocatable": [],
                    "failCgroupV1": False,
                    "failSwapOn": False,
                    # Tests kill the same container again and again; that delay is not their matter.
                    "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
                    # The machine's disk is shared; a test must not fail by how full it is.
                    "evictionHard": {"memory.available": "100Mi"},
                    "imageGCHighThresholdPercent": 100,
                    "imageGCLowThresholdPercent": 99,
                }
            )
        )
        command = [
            ensure_binary("kubelet"),
            f"--config={kubelet}",
            f"--kubeconfig={control_plane.write_kubeconfig(name, identity)}",
            f"--root-dir={directory / 'kubelet'}",
            f"--hostname-override={name}",
            f"--node-ip={network.node_address}",
        ]
        self._kubelet = [str(part) for part in command]
        self._script = _render_script(containerd, self._kubelet, directory)
        self._network = network
        self._process: ServerProcess | None = None

    def start(self) -> None:
        """Start the node, at first or after `kill`: same name, images and disk."""
        members = create_cgroup(self._cgroup)
        join = "".join(f"echo 0 > {shlex.quote(str(each))}\n" for each in members)
        script = self._directory / "start.sh"
        script.write_text(join + self._script)
        self._process = ServerProcess(
            self.name,
            [
                *self._network.enter_command,
                "unshare", "--pid", "--fork", "--kill-child", "--mount-proc",
                "--mount", "--propagation=slave",
                "bash", "-e", script,
            ],
            log=self._directory / "node.log",
        )  # fmt: skip
        self._process.start()

    def wait_ready(self) -> None:
        """Return when the cluster sees the node as Ready.

        Raises:
            RuntimeError: it ended or took too long; with the end of its log.
        """
        assert self._process is not None, f"{self.name} is not started"
        self._process.wait_ready(self._is_ready, seconds=READY_SECONDS)

    def kill_kubelet(self) -> None:
        """SIGKILL of the kubelet alone: containers go on, and a new one finds them."""
        program, configuration, *_ = (part.encode() for part in self._kubelet)
        found = []
        for command in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                words = command.read_bytes().split(b"\0")
                if words[0] == program and configuration in words:
                    found.append(int(command.parent.name))
        (kubelet,) = found
        os.kill(kubelet, signal.SIGKILL)

    def kill(self) -> None:
        """SIGKILL of everything on the node at once: to the cluster, a lost machine."""
        if self._process is not None:
            self._process.kill()
            remove_cgroup(self._cgroup)
            self._process = None

    def _is_ready(self) -> bool:
        nodes = self._control_plane.kubectl_json("get", "nodes")["items"]
        return any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for node in nodes
            if node["metadata"]["name"] == self.name
            for condition in node["status"].get("conditions", [])
        )


def _render_script(containerd: Path, kubelet: list[str], directory: Path) -> str:
    mounts = "".join(f"mount -t tmpfs tmpfs {folder}\n" for folder in PRIVATE_FOLDERS)
    return (
        f"{mounts}"
        f"containerd --config {shlex.quote(str(containerd))} "
        f">> {shlex.quote(str(directory / 'containerd.log'))} 2>&1 &\n"
        f"until [ -S {SOCKET} ]; do sleep 0.1; done\n"
        # As a service manager would: it gives up where containerd is not ready, or hiccups.
        f"while :; do {shlex.join(kubelet)} || sleep 0.5; done &\n"
        # This shell reaps the orphans of the process namespace, and ends it with containerd.
        "wait %1\n"
    )


def _write_containerd_configuration(directory: Path, network: NodeNetwork) -> Path:
    path = directory / "containerd.toml"
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    path.write_text(
        f"""version = 2
root = "{directory / "containerd"}"
state = "/run/containerd"
[grpc]
address = "{SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
path = "{directory / "opt"}"
[{cri}]
sandbox_image = "{SANDBOX_IMAGE}"
# Where root may not lower the OOM score, every pod's sandbox would die without this.
restrict_oom_score_adj = true
[{cri}.cni]
bin_dir = "{CNI_PLUGINS}"
conf_dir = "{network.cni_configuration}"
"""
    )
    return path


def _write_empty(path: Path) -> Path:
    path.write_text("")
    return path
