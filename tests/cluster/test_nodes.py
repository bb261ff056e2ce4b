from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from testbed.cgroups import find_cgroups
from testbed.cluster import Cluster, sweep_leftovers
from testbed.images import SANDBOX_IMAGE
from testbed.minio import MinioServer
from testbed.processes import wait_until
from testbed.prometheus import Prometheus, scrape_file, write_pod_targets

pytestmark = pytest.mark.nodes

READY_SECONDS = 60
# Kubernetes calls a silent node lost after 50 s, and looks every 5 s.
LOST_SECONDS = 90
NODE_USER = 65532


def build_pod(name: str, node: str, script: str, **fields: Any) -> dict[str, Any]:
    """A pod that Pod Security "restricted" admits and that runs a Python script."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "probe"}},
        "spec": {
            "hostname": name,
            "subdomain": "probe",
            "restartPolicy": "Never",
            "nodeSelector": {"kubernetes.io/hostname": node},
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": NODE_USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "main",
                    "image": SANDBOX_IMAGE,
                    "command": ["python3", "-u", "-c", textwrap.dedent(script)],
                    "ports": [{"name": "metrics", "containerPort": 8000}],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
            **fields,
        },
    }


HEADLESS_SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "probe"},
    "spec": {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": {"app": "probe"},
    },
}
WAIT_FOREVER = "import signal; signal.sigwait({signal.SIGTERM})"


def run_pods(cluster: Cluster, namespace: str, *objects: dict[str, Any]) -> None:
    cluster.control_plane.kubectl(
        "apply", "-n", namespace, "-f", "-",
        input=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}),
    )  # fmt: skip


def wait_for_phase(cluster: Cluster, namespace: str, pod: str, phase: str) -> None:
    cluster.control_plane.kubectl(
        "wait", f"pod/{pod}", f"--for=jsonpath={{.status.phase}}={phase}",
        f"--timeout={READY_SECONDS}s", "-n", namespace,
    )  # fmt: skip


def read_log(cluster: Cluster, namespace: str, pod: str) -> str:
    return cluster.control_plane.kubectl("logs", pod, "-n", namespace)


@pytest.mark.parametrize("node", ["node-1", "node-2"])
def test_each_node_runs_a_restricted_pod_and_carries_its_last_words(
    two_nodes: Cluster, node_namespace: str, node: str
) -> None:
    two_nodes.control_plane.kubectl(
        "label", "namespace", node_namespace, "pod-security.kubernetes.io/enforce=restricted"
    )
    script = """
        import os
        from pathlib import Path
        Path("/dev/termination-log").write_text(f"user {os.getuid()}")
        raise SystemExit(3)
    """
    run_pods(two_nodes, node_namespace, build_pod("probe", node, script))
    wait_for_phase(two_nodes, node_namespace, "probe", "Failed")
    pod = two_nodes.control_plane.kubectl_json("get", "pod", "probe", "-n", node_namespace)
    terminated = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (terminated["exitCode"], terminated["message"]) == (3, f"user {NODE_USER}")
    assert pod["spec"]["nodeName"] == node


def test_pods_of_two_nodes_meet_by_name(two_nodes: Cluster, node_namespace: str) -> None:
    serve = """
        import socket
        with socket.create_server(("", 8000)) as server:
            server.accept()[0].sendall(b"met")
    """
    meet = """
        import socket, time
        for _ in range(300):
            try:
                with socket.create_connection(("server.probe", 8000)) as peer:
                    print(peer.recv(3).decode())
                    break
            except OSError:
                time.sleep(0.1)
    """
    run_pods(
        two_nodes,
        node_namespace,
        HEADLESS_SERVICE,
        build_pod("server", "node-1", serve),
        build_pod("client", "node-2", meet),
    )
    wait_for_phase(two_nodes, node_namespace, "client", "Succeeded")
    assert read_log(two_nodes, node_namespace, "client") == "met\n"


def test_pods_reach_the_api_and_processes_of_this_machine(
    two_nodes: Cluster, node_namespace: str, pod_minio: MinioServer
) -> None:
    script = f"""
        import json, ssl, urllib.request
        account = "/var/run/secrets/kubernetes.io/serviceaccount"
        trusted = ssl.create_default_context(cafile=f"{{account}}/ca.crt")
        identity = {{"Authorization": "Bearer " + open(f"{{account}}/token").read()}}
        url = "https://kubernetes.default.svc/version"
        request = urllib.request.Request(url, headers=identity)
        print(json.load(urllib.request.urlopen(request, context=trusted))["gitVersion"])
        print(urllib.request.urlopen("{pod_minio.endpoint}/minio/health/live").status)
    """
    run_pods(two_nodes, node_namespace, build_pod("probe", "node-1", script))
    wait_for_phase(two_nodes, node_namespace, "probe", "Succeeded")
    assert read_log(two_nodes, node_namespace, "probe") == "v1.36.3\n200\n"


def test_prometheus_scrapes_pods(
    two_nodes: Cluster,
    node_namespace: str,
    prometheus: Callable[[Sequence[dict[str, Any]]], Prometheus],
    tmp_path: Path,
) -> None:
    script = """
        from http.server import BaseHTTPRequestHandler, HTTPServer
        class Metrics(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"probe_loss 2.5\\n")
        HTTPServer(("", 8000), Metrics).serve_forever()
    """
    run_pods(two_nodes, node_namespace, build_pod("probe", "node-2", script))
    wait_for_phase(two_nodes, node_namespace, "probe", "Running")
    pods = two_nodes.control_plane.kubectl_json("get", "pods", "-n", node_namespace)["items"]
    targets = tmp_path / "targets.json"
    write_pod_targets(targets, pods, port_name="metrics")
    server = prometheus([scrape_file(targets, job="probes")])
    query = f'probe_loss{{namespace="{node_namespace}",pod="probe"}}'
    wait_until(lambda: bool(server.query(query)), seconds=READY_SECONDS, what="a scrape")
    assert server.query(query)[0]["value"][1] == "2.5"


def test_a_killed_node_is_lost_and_comes_back(two_nodes: Cluster, node_namespace: str) -> None:
    plane, node = two_nodes.control_plane, two_nodes.get_node("node-2")
    run_pods(two_nodes, node_namespace, build_pod("probe", "node-2", WAIT_FOREVER))
    wait_for_phase(two_nodes, node_namespace, "probe", "Running")
    node.kill()
    try:
        plane.kubectl(
            "wait", "node/node-2", "--for=condition=Ready=Unknown", f"--timeout={LOST_SECONDS}s"
        )
    finally:
        node.start()
    plane.kubectl("wait", "node/node-2", "--for=condition=Ready", f"--timeout={LOST_SECONDS}s")
    run_pods(two_nodes, node_namespace, build_pod("after", "node-2", "print('here')"))
    wait_for_phase(two_nodes, node_namespace, "after", "Succeeded")


def test_a_killed_owner_leaves_nothing_running(two_nodes: Cluster) -> None:
    script = """
        import sys
        from testbed.cluster import Cluster
        from testbed.images import list_project_images
        from testbed.requirements import find_repository
        cluster = Cluster(list_project_images(find_repository()))
        cluster.start()
        print(cluster.network.host_address, cluster.directory.name, flush=True)
        sys.stdin.read()
    """
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdin is not None
    assert owner.stdout is not None
    with owner, owner.stdin, owner.stdout:
        address, name = owner.stdout.readline().split()
        assert len(find_cgroups(f"llmtrain-{name}")) == 2
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    wait_until(
        lambda: not find_processes_naming(f"/clusters/{name}/"),
        seconds=30,
        what="the killed cluster's processes to die",
    )
    wait_until(
        lambda: address not in list_addresses(), seconds=30, what="the killed cluster's link to go"
    )
    assert f"/clusters/{name}/" not in Path("/proc/mounts").read_text()
    sweep_leftovers()
    assert not find_cgroups(f"llmtrain-{name}")
    assert address != two_nodes.host_address
    assert len(two_nodes.control_plane.kubectl_json("get", "nodes")["items"]) == 2


def list_addresses() -> str:
    return subprocess.run(
        ["ip", "-brief", "address"], text=True, stdout=subprocess.PIPE, check=True
    ).stdout


def find_processes_naming(text: str) -> list[str]:
    """The command lines of running processes that contain ``text``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text()
        except OSError:
            continue
        if text in command:
            found.append(command)
    return found
