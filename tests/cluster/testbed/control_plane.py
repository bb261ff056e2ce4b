"""A real Kubernetes control plane of four processes, without root and without nodes.

etcd, the apiserver, the controller manager and the scheduler, each on free ports and in a
temporary directory. RBAC is on, service account tokens work and admission is Kubernetes' default,
so what passes here passes in a cluster. `node` adds real nodes, `kwok` imitated ones.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

from testbed.binaries import ensure_binaries
from testbed.certificates import CertificateAuthority, Identity, write_token_key_pair
from testbed.kubeconfig import write_kubeconfig
from testbed.processes import ServerProcess, accepts_connections, find_free_port, wait_until

LOOPBACK = "127.0.0.1"
SERVICE_NETWORK = "10.96.0.0/16"
# The first address of the service network is the `kubernetes` Service's.
KUBERNETES_SERVICE_ADDRESS = "10.96.0.1"
START_SECONDS = 60
KUBECTL_SECONDS = 120
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")


class KubectlError(RuntimeError):
    """kubectl refused; the message is what it printed."""


class ControlPlane:
    """A control plane under ``directory``, whose apiserver listens at ``address``.

    With the loopback address no pod can reach it; for nodes give the address that pods see.
    """

    def __init__(self, directory: Path, *, address: str = LOOPBACK) -> None:
        self.directory = directory
        self.address = address
        self.authority = CertificateAuthority(directory / "pki")
        self._programs = ensure_binaries(COMPONENTS)
        self._etcd_port = find_free_port()
        self._port = find_free_port(address)
        self._etcd = self._build_etcd()
        self._apiserver = self._build_apiserver()
        administrator = self.authority.issue(
            "admin", "llmtrain-admin", organisations=["system:masters"]
        )
        self.kubeconfig = self.write_kubeconfig("admin", administrator)
        self.administrator_ssl = ssl.create_default_context(cafile=str(self.authority.certificate))
        self.administrator_ssl.load_cert_chain(administrator.certificate, administrator.key)
        self._followers = [self._build_controller_manager(), self._build_scheduler()]

    @property
    def kubectl_program(self) -> str:
        """Path of the kubectl of this control plane's version."""
        return str(self._programs["kubectl"])

    @property
    def url(self) -> str:
        """The apiserver's address, ``https://host:port``."""
        return f"https://{self.address}:{self._port}"

    def start(self) -> None:
        """Start every component, and return when the API serves and service accounts appear."""
        self._etcd.start()
        self._etcd.wait_ready(
            lambda: accepts_connections(LOOPBACK, self._etcd_port), seconds=START_SECONDS
        )
        self.start_api()
        for follower in self._followers:
            follower.start()
        # It is the controller manager that makes these, and no pod is admitted before.
        self._followers[0].wait_ready(
            lambda: self._answers("/api/v1/namespaces/default/serviceaccounts/default"),
            seconds=START_SECONDS,
        )

    def stop(self) -> None:
        """Stop every component, the store last."""
        for follower in reversed(self._followers):
            follower.stop()
        # On SIGTERM it would wait a minute for every open watch.
        self._apiserver.kill()
        self._etcd.stop()

    def stop_api(self) -> None:
        """Kill the apiserver as a fault; etcd, and so every object, stays."""
        self._apiserver.kill()

    def start_api(self) -> None:
        """Start the apiserver, at first or after `stop_api`, at the same address."""
        self._apiserver.start()
        self._apiserver.wait_ready(lambda: self._answers("/readyz"), seconds=START_SECONDS)

    def kubectl(self, *arguments: str, input: str | None = None) -> str:  # noqa: A002
        """What kubectl prints, run as the cluster's administrator.

        Raises:
            KubectlError: it exited with an error.
        """
        run = subprocess.run(
            [self._programs["kubectl"], f"--kubeconfig={self.kubeconfig}", *arguments],
            input=input,
            text=True,
            capture_output=True,
            timeout=KUBECTL_SECONDS,
        )
        if run.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {run.stderr.strip()}")
        return run.stdout

    def kubectl_json(self, *arguments: str) -> Any:
        """The JSON that kubectl prints with ``-o json``, decoded."""
        return json.loads(self.kubectl(*arguments, "-o", "json"))

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply Kubernetes objects on the server side."""
        manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.kubectl("apply", "--server-side", "-f", "-", input=manifest)

    def define(self, file: Path) -> None:
        """Apply a CustomResourceDefinition, and return when its kind is served."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(file))

        def is_established() -> bool:
            # None at first, which `kubectl wait` and its JSON paths fail on.
            conditions = self.kubectl_json("get", "-f", str(file))["status"]["conditions"] or []
            return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

        wait_until(is_established, seconds=START_SECONDS, what=f"{file.name} to be served")

    def create_namespace(self, name: str) -> None:
        """Create a namespace, and return when pods can be admitted to it."""
        self.kubectl("create", "namespace", name)
        wait_until(
            lambda: self._answers(f"/api/v1/namespaces/{name}/serviceaccounts/default"),
            seconds=START_SECONDS,
            what=f"the default service account of namespace {name}",
        )

    def write_kubeconfig(self, name: str, identity: Identity) -> Path:
        """Write the kubeconfig of ``identity`` as ``name``; returns its path."""
        return write_kubeconfig(
            self.directory / f"{name}.kubeconfig",
            url=self.url,
            authority=self.authority.certificate,
            identity=identity,
        )

    def _answers(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(
                self.url + path, context=self.administrator_ssl, timeout=5
            ) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _build_etcd(self) -> ServerProcess:
        client = f"http://{LOOPBACK}:{self._etcd_port}"
        peer = f"http://{LOOPBACK}:{find_free_port()}"
        return self._server(
            "etcd",
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            # Only a crash of the whole machine would lose what is not synced.
            "--unsafe-no-fsync",
        )

    def _build_apiserver(self) -> ServerProcess:
        serving = self.authority.issue(
            "apiserver",
            "kube-apiserver",
            addresses=sorted({LOOPBACK, self.address, KUBERNETES_SERVICE_ADDRESS}),
            host_names=[
                "localhost",
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
            ],
        )
        kubelet_client = self.authority.issue(
            "kubelet-client", "kube-apiserver-kubelet-client", organisations=["system:masters"]
        )
        self._token_keys = write_token_key_pair(self.directory / "pki")
        # Kubernetes refuses a loopback address as the endpoint of its own Service.
        endpoint = (
            ["--endpoint-reconciler-type=none"]
            if self.address == LOOPBACK
            else [f"--advertise-address={self.address}"]
        )
        return self._server(
            "kube-apiserver",
            f"--etcd-servers=http://{LOOPBACK}:{self._etcd_port}",
            f"--bind-address={self.address}",
            f"--secure-port={self._port}",
            *endpoint,
            f"--service-cluster-ip-range={SERVICE_NETWORK}",
            f"--tls-cert-file={serving.certificate}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={self.authority.certificate}",
            f"--kubelet-certificate-authority={self.authority.certificate}",
            f"--kubelet-client-certificate={kubelet_client.certificate}",
            f"--kubelet-client-key={kubelet_client.key}",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={self._token_keys.certificate}",
            f"--service-account-signing-key-file={self._token_keys.key}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
        )

    def _build_controller_manager(self) -> ServerProcess:
        identity = self.authority.issue("controller-manager", "system:kube-controller-manager")
        return self._server(
            "kube-controller-manager",
            f"--kubeconfig={self.write_kubeconfig('controller-manager', identity)}",
            f"--root-ca-file={self.authority.certificate}",
            f"--service-account-private-key-file={self._token_keys.key}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
        )

    def _build_scheduler(self) -> ServerProcess:
        identity = self.authority.issue("scheduler", "system:kube-scheduler")
        return self._server(
            "kube-scheduler",
            f"--kubeconfig={self.write_kubeconfig('scheduler', identity)}",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
        )

    def _server(self, name: str, *flags: str) -> ServerProcess:
        return ServerProcess(
            name, [self._programs[name], *flags], log=self.directory / f"{name}.log"
        )
