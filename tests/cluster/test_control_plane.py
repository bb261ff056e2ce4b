from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from testbed.control_plane import ControlPlane, KubectlError
from testbed.processes import wait_until


def test_serves_the_pinned_version(control_plane: ControlPlane) -> None:
    version = control_plane.kubectl_json("version")
    assert version["serverVersion"]["gitVersion"] == "v1.36.3"
    assert version["clientVersion"]["gitVersion"] == "v1.36.3"


def test_rbac_and_service_account_tokens_work(control_plane: ControlPlane, namespace: str) -> None:
    token = control_plane.kubectl("create", "token", "default", "-n", namespace).strip()
    plain = control_plane.directory / "nobody.kubeconfig"
    plain.write_text("apiVersion: v1\nkind: Config\n")
    as_account = (
        f"--kubeconfig={plain}",
        f"--server={control_plane.url}",
        f"--certificate-authority={control_plane.authority.certificate}",
        f"--token={token}",
    )
    with pytest.raises(KubectlError, match=f"serviceaccount:{namespace}:default.*cannot get"):
        control_plane.kubectl(*as_account, "get", "pod", "absent", "-n", namespace)
    control_plane.kubectl(
        "create", "rolebinding", "viewer", "--clusterrole=view",
        f"--serviceaccount={namespace}:default", "-n", namespace,
    )  # fmt: skip
    with pytest.raises(KubectlError, match="NotFound"):
        control_plane.kubectl(*as_account, "get", "pod", "absent", "-n", namespace)


POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "worker"},
    "spec": {"containers": [{"name": "main", "image": "nothing"}]},
}


def test_pod_security_is_enforced(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.kubectl(
        "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted"
    )
    with pytest.raises(KubectlError, match='violates PodSecurity "restricted'):
        control_plane.kubectl("create", "-n", namespace, "-f", "-", input=json.dumps(POD))


def test_quota_is_enforced(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.kubectl("create", "quota", "none", "--hard=pods=0", "-n", namespace)
    wait_until(
        lambda: (
            "status" in control_plane.kubectl_json("get", "quota", "none", "-n", namespace)
            and bool(control_plane.kubectl_json("get", "quota", "none", "-n", namespace)["status"])
        ),
        seconds=30,
        what="the quota's status",
    )
    with pytest.raises(KubectlError, match="exceeded quota: none"):
        control_plane.kubectl("create", "-n", namespace, "-f", "-", input=json.dumps(POD))


def test_objects_outlive_the_apiserver(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.kubectl("create", "configmap", "kept", "--from-literal=a=b", "-n", namespace)
    control_plane.stop_api()
    with pytest.raises(KubectlError, match="refused"):
        control_plane.kubectl("get", "configmap", "kept", "-n", namespace)
    control_plane.start_api()
    kept = control_plane.kubectl_json("get", "configmap", "kept", "-n", namespace)
    assert kept["data"] == {"a": "b"}


def test_leaves_no_process_when_its_owner_is_killed(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent("""
            import sys
            from pathlib import Path
            from testbed.control_plane import ControlPlane
            ControlPlane(Path(sys.argv[1])).start()
            print("started", flush=True)
            sys.stdin.read()
        """), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert owner.stdin is not None
    assert owner.stdout is not None
    with owner, owner.stdin, owner.stdout:
        assert owner.stdout.readline() == "started\n"
        assert len(find_processes_under(tmp_path)) == 4
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    wait_until(lambda: not find_processes_under(tmp_path), seconds=10, what="the components to die")


def find_processes_under(directory: Path) -> list[str]:
    """The command lines that name ``directory``, of every process but Python's."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text()
        except OSError:
            continue
        if str(directory) in command and "ControlPlane" not in command:
            found.append(command)
    return found
