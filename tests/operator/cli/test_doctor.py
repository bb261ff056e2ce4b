"""`llmtrain doctor` on this machine and on a real control plane."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from llmtrain_operator.cli.cluster_checks import judge_nodes, judge_version
from llmtrain_operator.cli.findings import Verdict
from llmtrain_operator.cli.machine import (
    Requirement,
    count_cores,
    list_requirements,
    measure_memory,
    parse_requirement,
)
from llmtrain_operator.cli.machine_checks import EXTRAS, GIBIBYTE, judge_packages
from testbed.command_line import CommandLine
from testbed.control_plane import ControlPlane
from testbed.operators import Jobs
from testbed.processes import wait_until

REPOSITORY = Path(__file__).parents[3]
INSTALL_MANIFEST = REPOSITORY / "manifests" / "install" / "llmtrain.yaml"
CRD = REPOSITORY / "crds" / "llmtrainingjobs.yaml"
SECONDS = 60
TORCH = parse_requirement("torch<3,>=2.13; extra == 'trainer'")


def test_every_requirement_of_ours_is_understood() -> None:
    extras = {requirement.extra for requirement in list_requirements()}
    assert set(EXTRAS) <= extras
    assert Requirement(name="torch", bounds="<3,>=2.13", extra="trainer") == TORCH


@pytest.mark.parametrize("text", ["torch~=2.1", "torch>=2; python_version < '3.12'", "a @ b"])
def test_a_requirement_that_says_more_is_not_misread(text: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        parse_requirement(text)


@pytest.mark.parametrize(
    ("version", "allowed"),
    [
        ("2.13.0+cpu", True),
        ("2.13", True),
        ("2.14.0rc1", True),
        ("2.12.9", False),
        ("3.0.0", False),
        ("10.0", False),
    ],
)
def test_versions_are_compared_as_numbers(version: str, allowed: bool) -> None:
    assert TORCH.allows(version) is allowed


@pytest.mark.parametrize(
    ("version", "verdict", "said"),
    [
        ("2.13.0", Verdict.OK, "torch 2.13.0"),
        ("2.0.0", Verdict.MISSING, "torch is 2.0.0, needed: <3,>=2.13"),
        (None, Verdict.MISSING, "torch is not installed"),
    ],
)
def test_packages_are_judged(version: str | None, verdict: Verdict, said: str) -> None:
    finding = judge_packages([TORCH], {"torch": version}, "trainer")
    assert (finding.verdict, finding.said) == (verdict, said)
    assert ("llmtrain[trainer]" in finding.advice) is (verdict is Verdict.MISSING)


def test_this_machine_is_measured() -> None:
    assert count_cores() >= 1
    assert 0 < measure_memory() < 10_000 * GIBIBYTE


def test_this_machine_can_train(llmtrain: CommandLine) -> None:
    result = llmtrain("doctor", "--store", "somewhere")
    assert result.returncode == 0, result.stdout
    for subject in ("Python", "packages that train", "cores", "memory", "disk", "ports", "GPU"):
        assert f"  {subject}" in result.stdout
    assert "somewhere will be made" in result.stdout
    assert "the cluster" not in result.stdout
    assert not (llmtrain.folder / "somewhere").exists()


def test_a_store_that_takes_no_files_is_missing(llmtrain: CommandLine) -> None:
    result = llmtrain("doctor", "--store", "/proc/store")
    assert result.returncode == 1
    assert "/proc takes no files with locks" in result.stdout


def test_a_cluster_that_does_not_answer_spoils_no_local_run(
    llmtrain: CommandLine, tmp_path: Path
) -> None:
    kubeconfig = tmp_path / "absent"
    kubeconfig.write_text(yaml.safe_dump(describe_cluster("https://127.0.0.1:1")))
    local = llmtrain("doctor")
    assert local.returncode == 0, local.stdout
    assert "warning  apiserver  context nowhere: the apiserver does not answer" in local.stdout
    cluster = llmtrain("doctor", "--cluster")
    assert cluster.returncode == 1
    assert "missing  apiserver" in cluster.stdout


def test_without_a_kubeconfig_the_cluster_is_missing(llmtrain: CommandLine) -> None:
    result = llmtrain("doctor", "--cluster")
    assert result.returncode == 1
    assert "missing  kubeconfig" in result.stdout


def test_a_cluster_gets_what_it_lacks(
    on_cluster: CommandLine, server: ControlPlane, namespace: str
) -> None:
    before = on_cluster("doctor", "--cluster", "-n", namespace)
    assert before.returncode == 1
    assert "Kubernetes v1.36" in before.stdout
    assert "llmtrainingjobs.llmtrain.dev is served" in before.stdout
    assert f"you may create and watch llmtrainingjobs in namespace {namespace}" in before.stdout
    assert "missing  operator" in before.stdout
    assert "0 of 0 are ready" in before.stdout

    install_operator(server, namespace)
    no_pod = on_cluster("doctor", "--cluster", "-n", namespace)
    assert no_pod.returncode == 1
    assert f"{namespace}/llmtrain has no pod that is available" in no_pod.stdout

    run_operator_pod(Jobs(server, namespace))
    after = on_cluster("doctor", "--cluster", "-n", namespace)
    assert after.returncode == 0, after.stdout
    assert f"{namespace}/llmtrain is available" in after.stdout


def test_rights_are_the_current_users(server: ControlPlane, namespace: str, tmp_path: Path) -> None:
    guest = server.authority.issue("guest", "guest")
    environment = {"KUBECONFIG": str(server.write_kubeconfig("guest", guest))}
    result = CommandLine(tmp_path, environment)("doctor", "--cluster", "-n", namespace)
    assert result.returncode == 1
    assert f"you may not create, patch, get llmtrainingjobs in namespace {namespace}" in (
        result.stdout
    )
    assert "warning  nodes        not looked at: nodes is forbidden" in result.stdout


def test_a_cluster_without_the_definition_is_told_how_to_get_it(
    on_cluster: CommandLine, control_plane: ControlPlane, namespace: str
) -> None:
    control_plane.kubectl("delete", "crd", "llmtrainingjobs.llmtrain.dev")
    try:
        result = on_cluster("doctor", "--cluster", "-n", namespace)
    finally:
        control_plane.define(CRD)
    assert result.returncode == 1
    assert "llmtrainingjobs.llmtrain.dev is not installed" in result.stdout
    assert "helm install llmtrain" in result.stdout


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        ("v1.36.3", Verdict.OK),
        ("v1.30.0-eks-1", Verdict.OK),
        ("v1.29.9", Verdict.MISSING),
        ("v2.0.0", Verdict.OK),
    ],
)
def test_old_clusters_are_named(version: str, verdict: Verdict) -> None:
    assert judge_version(version).verdict is verdict


def test_gpus_are_counted_on_nodes_that_are_ready() -> None:
    nodes = [make_node(True, gpus="4"), make_node(True), make_node(False, gpus="8")]
    ready, gpus = judge_nodes(nodes)
    assert ready.said == "2 of 3 are ready"
    assert gpus.said == "4 on 1 nodes"


def make_node(ready: bool, gpus: str | None = None) -> dict[str, Any]:
    allocatable = {"cpu": "8"} | ({"nvidia.com/gpu": gpus} if gpus is not None else {})
    condition = {"type": "Ready", "status": str(ready)}
    return {"status": {"conditions": [condition], "allocatable": allocatable}}


def describe_cluster(url: str) -> dict[str, Any]:
    return {
        "clusters": [{"name": "nowhere", "cluster": {"server": url}}],
        "users": [{"name": "nobody", "user": {}}],
        "contexts": [{"name": "nowhere", "context": {"cluster": "nowhere", "user": "nobody"}}],
        "current-context": "nowhere",
    }


def install_operator(server: ControlPlane, namespace: str) -> None:
    """Apply the operator's Deployment of the plain install, in another namespace."""
    for document in yaml.safe_load_all(INSTALL_MANIFEST.read_text()):
        if document["kind"] in ("Deployment", "ServiceAccount"):
            document["metadata"]["namespace"] = namespace
            if document["kind"] == "Deployment":
                document["spec"]["replicas"] = 1
            server.apply(document)


def run_operator_pod(jobs: Jobs) -> None:
    """Say of the operator's pod what a kubelet would, and wait until its Deployment has seen it."""
    wait_until(lambda: len(jobs.list_pods()) == 1, seconds=SECONDS, what="the operator's pod")
    (name,) = jobs.list_pods()
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    jobs.set_pod_status(name, {"phase": "Running", "conditions": [ready]})
    wait = ("wait", "--for=condition=Available", f"--timeout={SECONDS}s", "deployment/llmtrain")
    jobs.server.kubectl("-n", jobs.namespace, *wait)
