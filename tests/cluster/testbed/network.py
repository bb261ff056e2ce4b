"""The network of a cluster's nodes: a network namespace of their own beside the machine's.

The bridge, the pods' links and the proxy's packet rules all live in that namespace. Nobody names
it: it exists while processes live in it, so that even a killed test run leaves nothing of it. One
link joins it to the machine, where a process that binds ``host_address`` is reachable from pods,
and the machine reaches pods by a route. Pods reach nothing beyond the machine.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from testbed.binaries import ensure_binaries
from testbed.control_plane import ControlPlane
from testbed.processes import ServerProcess, accepts_connections, wait_until

CNI_PLUGINS = Path("/usr/lib/cni")
CLUSTER_DOMAIN = "cluster.local"
DNS_PORT = 53
PROXY_MODE = "iptables"
PROXY_HEALTH_PORT = 10256
START_SECONDS = 30
# Each cluster takes a free one of these 10.n.0.0/16, so that several fit on one machine.
SECOND_OCTETS = range(200, 250)


class NodeNetwork:
    """Addresses, the namespace, the machine's link to it, cluster DNS and the service proxy."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        octet = _find_free_octet()
        self.host_address = f"10.{octet}.0.1"
        self.node_address = f"10.{octet}.0.2"
        self.pod_network = f"10.{octet}.1.0/24"
        self._link = f"llmtrain{octet}"
        self._anchor = ServerProcess(
            "network-anchor",
            ["unshare", "--net", "sleep", "infinity"],
            log=directory / "anchor.log",
        )
        self._servers: list[ServerProcess] = []
        self.cni_configuration = self._write_cni_configuration()

    @property
    def enter_command(self) -> list[str]:
        """The words before a command that make it run inside the namespace."""
        return ["nsenter", f"--net=/proc/{self._anchor.pid}/ns/net", "--"]

    def start(self) -> None:
        """Make the namespace and its link to the machine."""
        self._anchor.start()
        namespace = Path(f"/proc/{self._anchor.pid}/ns/net")
        own = Path("/proc/self/ns/net").readlink()
        self._anchor.wait_ready(lambda: namespace.readlink() != own, seconds=START_SECONDS)
        peer = f"{self._link}n"
        _run("ip", "link", "add", self._link, "type", "veth", "peer", "name", peer,
             "netns", str(self._anchor.pid))  # fmt: skip
        _run("ip", "address", "add", f"{self.host_address}/30", "dev", self._link)
        _run("ip", "link", "set", self._link, "up")
        for command in (
            ("ip", "link", "set", "lo", "up"),
            ("ip", "address", "add", f"{self.node_address}/30", "dev", peer),
            ("ip", "link", "set", peer, "up"),
            ("ip", "route", "add", "default", "via", self.host_address),
            ("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"),
        ):
            _run(*self.enter_command, *command)
        _run("ip", "route", "add", self.pod_network, "via", self.node_address)

    def start_services(self, control_plane: ControlPlane, node_name: str) -> None:
        """Start cluster DNS and the proxy that gives Services their addresses."""
        programs = ensure_binaries(["coredns", "kube-proxy"])
        dns = self._build_dns(control_plane, programs["coredns"])
        proxy = self._build_proxy(control_plane, programs["kube-proxy"], node_name)
        self._servers = [dns, proxy]
        for server in self._servers:
            server.start()
        dns.wait_ready(
            lambda: accepts_connections(self.node_address, DNS_PORT), seconds=START_SECONDS
        )
        proxy.wait_ready(
            lambda: accepts_connections(self.node_address, PROXY_HEALTH_PORT),
            seconds=START_SECONDS,
        )

    def stop(self) -> None:
        """Stop the services and let the namespace go; the link goes with it."""
        for server in (*reversed(self._servers), self._anchor):
            server.stop()
        wait_until(
            lambda: self._link not in {each["ifname"] for each in _list_links()},
            seconds=START_SECONDS,
            what=f"link {self._link} to go with its namespace",
        )

    def _write_cni_configuration(self) -> Path:
        folder = self._directory / "cni"
        folder.mkdir()
        bridge = {
            "type": "bridge",
            "bridge": "pods",
            "isGateway": True,
            "ipMasq": False,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "dataDir": str(self._directory / "ipam"),
                "ranges": [[{"subnet": self.pod_network}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
        document = {"cniVersion": "0.4.0", "name": "llmtrain", "plugins": [bridge]}
        (folder / "10-llmtrain.conflist").write_text(json.dumps(document, indent=2))
        return folder

    def _build_dns(self, control_plane: ControlPlane, program: Path) -> ServerProcess:
        identity = control_plane.authority.issue(
            "coredns", "coredns", organisations=["system:masters"]
        )
        kubeconfig = control_plane.write_kubeconfig("coredns", identity)
        corefile = self._directory / "Corefile"
        # Without caching: ranks look for each other's names before the names exist.
        corefile.write_text(
            f".:{DNS_PORT} {{\n"
            f"    bind {self.node_address}\n"
            f"    kubernetes {CLUSTER_DOMAIN} {{\n"
            f"        kubeconfig {kubeconfig}\n"
            f"        ttl 0\n"
            f"    }}\n"
            f"    errors\n"
            f"}}\n"
        )
        return ServerProcess(
            "coredns",
            [*self.enter_command, program, f"-conf={corefile}"],
            log=self._directory / "coredns.log",
        )

    def _build_proxy(
        self, control_plane: ControlPlane, program: Path, node_name: str
    ) -> ServerProcess:
        identity = control_plane.authority.issue("kube-proxy", "system:kube-proxy")
        return ServerProcess(
            "kube-proxy",
            [
                *self.enter_command,
                program,
                f"--kubeconfig={control_plane.write_kubeconfig('kube-proxy', identity)}",
                f"--hostname-override={node_name}",
                f"--proxy-mode={PROXY_MODE}",
                f"--cluster-cidr={self.pod_network}",
                # Two pods of one bridge would answer each other past the translation.
                "--masquerade-all=true",
                f"--healthz-bind-address={self.node_address}:{PROXY_HEALTH_PORT}",
                "--conntrack-max-per-core=0",
                "--conntrack-tcp-timeout-established=0",
                "--conntrack-tcp-timeout-close-wait=0",
            ],
            log=self._directory / "kube-proxy.log",
        )


def _find_free_octet() -> int:
    taken = {
        int(address["local"].split(".")[1])
        for link in _list_links()
        for address in link["addr_info"]
        if address["family"] == "inet" and address["local"].startswith("10.")
    }
    free = [octet for octet in SECOND_OCTETS if octet not in taken]
    if not free:
        first, last = SECOND_OCTETS[0], SECOND_OCTETS[-1]
        raise RuntimeError(f"every network from 10.{first}.0.0/16 to 10.{last}.0.0/16 is taken")
    return free[0]


def _list_links() -> list[dict[str, Any]]:
    links: list[dict[str, Any]] = json.loads(_run("ip", "-json", "address"))
    return links


def _run(*command: str) -> str:
    run = subprocess.run(command, text=True, capture_output=True)
    if run.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {run.stderr.strip()}")
    return run.stdout
