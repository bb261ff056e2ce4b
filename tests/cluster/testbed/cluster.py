"""A whole cluster on this machine: a control plane, a network and two real nodes.

The composition of everything below it; `fixtures` and ``python -m testbed`` start it. Its files
lie in a folder of its own in the cache, beside the image store whose files its nodes share. A run
that is killed leaves that folder and empty control groups, and the next one sweeps them.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from testbed.cache import cache_directory, lock_cache
from testbed.cgroups import find_cgroups, remove_cgroup
from testbed.control_plane import ControlPlane
from testbed.images import ImageSource, clone_store, ensure_store
from testbed.network import NodeNetwork
from testbed.node import Node

NODE_NAMES = ("node-1", "node-2")
CGROUP_PREFIX = "llmtrain-"


class Cluster:
    """Two nodes that have ``images``, with DNS, Services and an API that pods reach.

    A process of this machine that binds ``host_address`` is reachable from the pods, and the
    machine reaches every pod by the pod's own address.
    """

    def __init__(self, images: Sequence[ImageSource]) -> None:
        store = ensure_store(images)
        # Nobody else may sweep this folder or take this network while they are half made.
        with lock_cache("clusters"):
            sweep_leftovers()
            name = secrets.token_hex(4)
            self.directory = _runs_directory() / name
            self.directory.mkdir()
            self._lock = FileLock(self.directory / "owner.lock")
            self._lock.acquire()
            self.network = NodeNetwork(self.directory / "network")
            self.network.start()
        self.host_address = self.network.host_address
        plane = self.directory / "control-plane"
        plane.mkdir()
        self.control_plane = ControlPlane(plane, address=self.host_address)
        self.nodes: list[Node] = []
        for index, node in enumerate(NODE_NAMES):
            directory = self.directory / node
            clone_store(store, directory / "containerd")
            self.nodes.append(
                Node(
                    directory,
                    name=node,
                    index=index,
                    cgroup=f"{CGROUP_PREFIX}{name}-{index}",
                    control_plane=self.control_plane,
                    network=self.network,
                )
            )

    def start(self) -> None:
        """Start everything, and return when both nodes are Ready and DNS answers."""
        self.control_plane.start()
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            node.wait_ready()
        self.network.start_services(self.control_plane, self.nodes[0].name)

    def stop(self) -> None:
        """Stop everything and remove what it left on the machine; its logs stay in the cache."""
        for node in reversed(self.nodes):
            node.kill()
        self.control_plane.stop()
        self.network.stop()
        self._keep_logs()
        self._lock.release()
        shutil.rmtree(self.directory)

    def get_node(self, name: str) -> Node:
        """The node that the cluster calls ``name``, which is what a pod's ``nodeName`` says."""
        return next(node for node in self.nodes if node.name == name)

    def _keep_logs(self) -> None:
        kept = cache_directory() / "logs"
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir()
        for log in self.directory.glob("*/*.log"):
            shutil.copy(log, kept / f"{log.parent.name}-{log.name}")


def sweep_leftovers() -> None:
    """Remove the folders and control groups of clusters whose owner was killed."""
    for directory in _runs_directory().iterdir():
        lock = FileLock(directory / "owner.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        for cgroup in find_cgroups(f"{CGROUP_PREFIX}{directory.name}-"):
            remove_cgroup(cgroup)
        lock.release()
        shutil.rmtree(directory)


def _runs_directory() -> Path:
    directory = cache_directory() / "clusters"
    directory.mkdir(exist_ok=True)
    return directory
