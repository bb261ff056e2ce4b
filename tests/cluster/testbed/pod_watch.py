"""Every change of a namespace's pods, in the API's order, and what must never be among them.

Below: `control_plane`. Above: the tests that kill the operator at random moments.
"""

from __future__ import annotations

from pathlib import Path

from testbed.control_plane import ControlPlane
from testbed.processes import ServerProcess

ENDED_PHASES = frozenset({"Succeeded", "Failed"})
POD_LINE = '{.type} {.object.metadata.name} {.object.status.phase}{"\\n"}'


def watch_pods(server: ControlPlane, namespace: str, directory: Path) -> ServerProcess:
    """Start to write every change of the namespace's pods to ``pods.log``, for `find_doubles`."""
    return watch_objects(server, namespace, "pods", POD_LINE, directory / "pods.log")


def watch_objects(
    server: ControlPlane, namespace: str, resource: str, line: str, log: Path
) -> ServerProcess:
    """Start to write a line (jsonpath) for every change of a resource, in the API's order."""
    watch = ServerProcess(
        f"watch of {resource}",
        [
            server.kubectl_program, f"--kubeconfig={server.kubeconfig}",
            "-n", namespace, "get", resource, "--watch", "--output-watch-events",
            f"--output=jsonpath={line}",
        ],
        log=log,
    )  # fmt: skip
    watch.start()
    return watch


def find_doubles(log: Path) -> list[set[str]]:
    """Return the sets of pods that were alive for one worker at one time."""
    alive: set[str] = set()
    doubles: list[set[str]] = []
    for line in log.read_text().splitlines():
        change, name, phase = line.split()
        if change == "DELETED" or phase in ENDED_PHASES:
            alive.discard(name)
        else:
            alive.add(name)
        worker = name.rpartition("-")[0]
        of_worker = {other for other in alive if other.rpartition("-")[0] == worker}
        if len(of_worker) > 1:
            doubles.append(of_worker)
    return doubles
