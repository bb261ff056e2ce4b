"""The chart: it lints, refuses unknown values, and a real apiserver takes what it renders."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmtrain_api.schema import build_crd
from testbed.control_plane import ControlPlane
from testbed.processes import wait_until

CHART = Path(__file__).parents[2] / "helm" / "llmtrain"
RELEASE_NAMESPACE = "llmtrain-system"
MONITORING_GROUP = "monitoring.coreos.com"

Helm = Callable[..., "subprocess.CompletedProcess[str]"]

VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "namespaced": {"watchNamespaces": ["team-a", "team-b"], "crds": {"keep": False}},
    "highly available": {"replicas": 2, "priorityClassName": "system-cluster-critical"},
    "placed by the user": {
        "replicas": 3,
        "affinity": {"nodeAffinity": {}},
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"operator": "Exists"}],
        "podLabels": {"team": "platform"},
        "podAnnotations": {"example.com/note": "yes"},
        "imagePullSecrets": [{"name": "registry"}],
        "image": {"digest": "sha256:" + "0" * 64},
    },
    "somebody else's roles": {
        "rbac": {"create": False, "aggregate": False},
        "serviceAccount": {"create": False, "name": "operator"},
        "crds": {"install": False},
    },
    "closed network": {
        "watchNamespaces": ["team-a"],
        "networkPolicy": {
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}],
            "workers": {
                "namespaces": ["team-a", "team-b"],
                "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
            },
        },
    },
}


def render(helm: Helm, values: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    file = folder / "values.json"
    file.write_text(json.dumps(values))
    run = helm(
        *("template", "llmtrain", str(CHART)),
        *("--namespace", RELEASE_NAMESPACE, "--values", str(file)),
    )
    assert run.returncode == 0, run.stderr
    return [document for document in yaml.safe_load_all(run.stdout) if document]


def find(objects: list[dict[str, Any]], kind: str, suffix: str = "") -> dict[str, Any]:
    found = [o for o in objects if o["kind"] == kind and o["metadata"]["name"].endswith(suffix)]
    assert len(found) == 1, f"{len(found)} of {kind} *{suffix}"
    return found[0]


@pytest.fixture(scope="module")
def server(control_plane: ControlPlane) -> ControlPlane:
    """A control plane with the namespaces that the variants name."""
    for name in (RELEASE_NAMESPACE, "team-a", "team-b"):
        control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return control_plane


def test_lint(helm: Helm) -> None:
    run = helm("lint", "--strict", str(CHART))
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_real_server_takes_every_variant(
    helm: Helm, server: ControlPlane, tmp_path: Path, values: dict[str, Any]
) -> None:
    objects = render(helm, values, tmp_path)
    server.kubectl(
        *("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict"),
        *("-f", "-"),
        input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}),
    )


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"replica": 2}, "replica"),
        ({"replicas": -1}, "replicas"),
        ({"image": {"digest": "latest"}}, "image/digest"),
        ({"log": {"level": "loud"}}, "log/level"),
        ({"watchNamespaces": ["Team A"]}, "watchNamespaces/0"),
        ({"podMonitor": {"interval": "soon"}}, "podMonitor/interval"),
    ],
    ids=lambda value: json.dumps(value),
)
def test_values_that_mean_nothing_are_refused_by_name(
    helm: Helm, tmp_path: Path, values: dict[str, Any], complaint: str
) -> None:
    file = tmp_path / "values.json"
    file.write_text(json.dumps(values))
    run = helm("template", "llmtrain", str(CHART), "--values", str(file))
    assert run.returncode != 0
    assert complaint in run.stderr


def test_every_value_is_in_the_schema_and_the_other_way_round() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(values) == set(schema["properties"]) - {"global"}


def test_the_definition_is_the_generated_one_and_is_kept(helm: Helm, tmp_path: Path) -> None:
    crd = find(render(helm, {}, tmp_path), "CustomResourceDefinition")
    assert crd["spec"] == build_crd()["spec"]
    assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_the_definition_can_be_left_to_others_or_to_helm(helm: Helm, tmp_path: Path) -> None:
    without = render(helm, {"crds": {"install": False}}, tmp_path)
    assert "CustomResourceDefinition" not in {o["kind"] for o in without}
    unkept = find(render(helm, {"crds": {"keep": False}}, tmp_path), "CustomResourceDefinition")
    assert "annotations" not in unkept["metadata"]


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_operator_is_granted_nothing_wide(
    helm: Helm, tmp_path: Path, values: dict[str, Any]
) -> None:
    objects = render(helm, values, tmp_path)
    rules = [rule for o in objects if o["kind"] in {"Role", "ClusterRole"} for rule in o["rules"]]
    for rule in rules:
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        assert not {"secrets", "pods/exec", "pods/attach"} & set(rule["resources"])
        assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])


def test_a_namespaced_operator_has_no_cluster_wide_binding(helm: Helm, tmp_path: Path) -> None:
    objects = render(helm, {"watchNamespaces": ["team-a", "team-b"]}, tmp_path)
    assert "ClusterRoleBinding" not in {o["kind"] for o in objects}
    bound = {o["metadata"]["namespace"] for o in objects if o["kind"] == "RoleBinding"}
    assert bound == {"team-a", "team-b", RELEASE_NAMESPACE}


def test_users_of_view_edit_and_admin_get_jobs_too(
    server: ControlPlane, helm: Helm, tmp_path: Path
) -> None:
    objects = render(helm, {"crds": {"install": False}}, tmp_path)
    server.apply(*(o for o in objects if o["kind"] == "ClusterRole"))
    for role in ("view", "edit", "admin"):
        server.apply(bind_user(role))
    # A controller of the cluster adds the rules to its own roles, moments later.
    for role, verb in [("view", "watch"), ("edit", "create"), ("admin", "delete")]:
        wait_until(
            partial(may, server, role, verb),
            seconds=30,
            what=f"{role} to {verb} jobs",
        )
    assert not may(server, "view", "create")


def bind_user(role: str) -> dict[str, Any]:
    group = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{group}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": f"user-{role}", "namespace": "team-a"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "User", "name": f"user-{role}", "apiGroup": group}],
    }


def may(server: ControlPlane, role: str, verb: str) -> bool:
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"user-{role}",
            "resourceAttributes": {
                "namespace": "team-a",
                "verb": verb,
                "group": "llmtrain.dev",
                "resource": "llmtrainingjobs",
            },
        },
    }
    answer = server.kubectl("create", "-f", "-", "-o", "json", input=json.dumps(review))
    return bool(json.loads(answer)["status"]["allowed"])


def test_pods_of_the_operator_pass_the_restricted_standard(
    server: ControlPlane, helm: Helm, tmp_path: Path
) -> None:
    """The server's own check: a pod in a namespace that enforces it is created or refused."""
    server.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": "restricted",
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
            },
        }
    )
    template = find(render(helm, {}, tmp_path), "Deployment")["spec"]["template"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "operator", "namespace": "restricted"},
        "spec": template["spec"] | {"serviceAccountName": "default"},
    }
    server.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(pod))


def test_one_operator_needs_no_budget_and_two_get_one(helm: Helm, tmp_path: Path) -> None:
    one = render(helm, {}, tmp_path)
    assert "PodDisruptionBudget" not in {o["kind"] for o in one}
    two = render(helm, {"replicas": 2}, tmp_path)
    assert find(two, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_monitors_are_switched_on_by_name(helm: Helm, tmp_path: Path) -> None:
    assert not [o for o in render(helm, {}, tmp_path) if MONITORING_GROUP in o["apiVersion"]]
    objects = render(
        helm,
        {
            "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "podMonitor": {"enabled": True, "interval": "5s"},
        },
        tmp_path,
    )
    service = find(objects, "Service", "-metrics")
    monitor = find(objects, "ServiceMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    selected = monitor["spec"]["selector"]["matchLabels"].items()
    assert selected <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    endpoint = find(objects, "PodMonitor")["spec"]["podMetricsEndpoints"][0]
    assert endpoint == {"port": "metrics", "interval": "5s", "honorLabels": True}


def test_notes_say_what_to_do_next(helm: Helm) -> None:
    run = helm("install", "llmtrain", str(CHART), "--dry-run=client")
    assert run.returncode == 0, run.stderr
    assert "kubectl get llmtrainingjobs -A" in run.stdout.partition("NOTES:")[2]
