"""What may be changed of a job that exists: its run policy, its size where it is elastic."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmtrain_api.job import FIXED_SPEC_FIELDS
from testbed.control_plane import ControlPlane, KubectlError
from testbed.fault_log import FaultWatch
from testbed.smallest_job import COLLECTION, SMALLEST, change, create, patch

CHANGED_PARTS: dict[str, Any] = {
    "data": {"sources": [{"uri": "s3://corpus/other/"}]},
    "model": {"layers": 7},
    "training": {"steps": 101},
    "evaluation": {"everySteps": 7},
    "workers": {"replicas": 2},
    "checkpoint": {"keepLast": 7},
    "storage": {"uri": "s3://models/other"},
}


def test_the_table_of_changes_names_every_fixed_field() -> None:
    assert set(CHANGED_PARTS) == set(FIXED_SPEC_FIELDS)


@pytest.mark.fault(24, world="apiserver")
def test_a_job_keeps_its_spec_but_for_the_run_policy(
    server: ControlPlane, namespace: str, fault: FaultWatch
) -> None:
    create(server, namespace, SMALLEST, "")
    for field, value in CHANGED_PARTS.items():
        with pytest.raises(KubectlError) as caught:
            patch(server, namespace, {"spec": {field: value}})
        fault.said(str(caught.value), f"spec.{field}: ", "is fixed once the job exists")
    patch(server, namespace, {"spec": {"runPolicy": {"suspend": True, "restartLimit": 3}}})
    job = server.kubectl_json("-n", namespace, "get", "llmjob", "tiny")
    assert job["spec"]["runPolicy"]["suspend"] is True


ELASTIC = change(SMALLEST, spec__workers={"replicas": 4, "elastic": {"minReplicas": 2}})


@pytest.mark.fault(24, world="apiserver")
def test_the_number_of_workers_is_fixed_without_elastic(
    server: ControlPlane, namespace: str, fault: FaultWatch
) -> None:
    create(server, namespace, change(SMALLEST, spec__workers={"replicas": 4}), "")
    with pytest.raises(KubectlError) as caught:
        scale(server, namespace, 2)
    fault.said(str(caught.value), "spec.workers: ", "but for replicas where elastic is set")
    changes: list[dict[str, Any]] = [{"replicas": 2, "elastic": {}}, {"elastic": {}}]
    for workers in changes:
        with pytest.raises(KubectlError, match="fixed once the job exists"):
            patch(server, namespace, {"spec": {"workers": workers}})


def test_an_elastic_job_is_scaled_and_keeps_the_rest(server: ControlPlane, namespace: str) -> None:
    create(server, namespace, ELASTIC, "")
    scale(server, namespace, 2)
    job = server.kubectl_json("-n", namespace, "get", "llmjob", "tiny")
    assert job["spec"]["workers"]["replicas"] == 2
    changes: list[dict[str, Any]] = [
        {"image": "other:1"},
        {"strategy": "fsdp"},
        {"resources": {"cpu": 2}},
        {"tolerations": [{"key": "gpu"}]},
        {"elastic": {"minReplicas": 1}},
        {"elastic": None},
    ]
    for workers in changes:
        with pytest.raises(KubectlError, match="fixed once the job exists"):
            patch(server, namespace, {"spec": {"workers": {"replicas": 4, **workers}}})


@pytest.mark.parametrize(
    ("replicas", "complaint"),
    [(1, "replicas must be at least elastic.minReplicas"), (3, "a multiple of the world size")],
)
def test_sizes_that_are_not_allowed_are_refused(
    server: ControlPlane, namespace: str, replicas: int, complaint: str
) -> None:
    create(server, namespace, ELASTIC, "")
    with pytest.raises(KubectlError, match=complaint):
        scale(server, namespace, replicas)


def test_an_autoscaler_reads_what_trains_now(server: ControlPlane, namespace: str) -> None:
    create(server, namespace, ELASTIC, "")
    selector = "llmtrain.dev/job=tiny,llmtrain.dev/stage=train"
    size = {
        "workers": 2,
        "wanted": 4,
        "reason": "NoRoom",
        "since": "2026-01-01T00:00:00Z",
        "selector": selector,
    }
    patch(server, namespace, {"status": {"size": size}}, "--subresource=status")
    path = f"{COLLECTION.format(namespace=namespace)}/tiny/scale"
    seen = json.loads(server.kubectl("get", "--raw", path))
    assert seen["spec"]["replicas"] == 4
    assert seen["status"] == {"replicas": 2, "selector": selector}


def scale(server: ControlPlane, namespace: str, replicas: int) -> None:
    server.kubectl("-n", namespace, "scale", "llmjob", "tiny", f"--replicas={replicas}")
