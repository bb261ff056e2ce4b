"""What a cluster lacks for LLMTrainingJobs, as far as the current user may see it.

Below: `cluster` connects. Above: `doctor`. Questions that the user may not ask are warnings: the
cluster may have all it needs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from llmtrain_api.base import API_VERSION, GROUP, PLURAL
from llmtrain_operator.cli.cluster import (
    ClusterError,
    Context,
    connect,
    explain_refusal,
    read_version,
)
from llmtrain_operator.cli.findings import Finding, Verdict
from llmtrain_operator.world.kube import ApiError, KubeClient

MIN_VERSION = (1, 30)
"""Kubernetes' version from which the definition's rules work, as in the chart."""

OPERATOR_LABELS = "app.kubernetes.io/name=llmtrain,app.kubernetes.io/component=operator"
INSTALL = "Install llmtrain: helm install llmtrain helm/llmtrain -n llmtrain-system"

NEEDED_VERBS = ("create", "patch", "get")
"""What `llmtrain submit` does with jobs."""

GPU_RESOURCE = "nvidia.com/gpu"


async def check_cluster(context: Context, namespace: str) -> list[Finding]:
    """Look at everything that a job in a namespace needs of the cluster."""
    findings = []
    try:
        async with connect() as client:
            findings.append(await _check_version(client, context))
            if findings[0].verdict is not Verdict.MISSING:
                findings.append(await _check_definition(client))
                findings.append(await _check_rights(client, namespace))
                findings.append(await _check_operator(client))
                findings += await _check_nodes(client)
    except ClusterError as error:
        said = f"context {context.name}: {error}"
        findings.append(Finding(subject="apiserver", verdict=Verdict.MISSING, said=said))
    return findings


def judge_version(version: str) -> Finding:
    """Compare an apiserver's version, as v1.36.3, with the oldest that is supported."""
    match = re.match(r"v?(\d+)\.(\d+)", version)
    if match is not None and (int(match[1]), int(match[2])) < MIN_VERSION:
        wanted = ".".join(map(str, MIN_VERSION))
        return Finding(
            subject="apiserver",
            verdict=Verdict.MISSING,
            said=f"Kubernetes {version}",
            advice=f"llmtrain needs Kubernetes {wanted} or newer: upgrade the cluster.",
        )
    return Finding(subject="apiserver", verdict=Verdict.OK, said=f"Kubernetes {version}")


def judge_operators(deployments: Sequence[dict[str, Any]]) -> Finding:
    """Look for a Deployment of the operator that has a pod at work."""
    subject = "operator"
    if not deployments:
        said = "no Deployment of it, so nobody looks after jobs"
        return Finding(subject=subject, verdict=Verdict.MISSING, said=said, advice=INSTALL)
    for deployment in deployments:
        if deployment.get("status", {}).get("availableReplicas"):
            said = f"{_name(deployment)} is available"
            return Finding(subject=subject, verdict=Verdict.OK, said=said)
    metadata = deployments[0]["metadata"]
    return Finding(
        subject=subject,
        verdict=Verdict.MISSING,
        said=f"{_name(deployments[0])} has no pod that is available",
        advice=f"kubectl -n {metadata['namespace']} describe deployment {metadata['name']}",
    )


def judge_nodes(nodes: Sequence[dict[str, Any]]) -> list[Finding]:
    """Count the nodes that are ready, and their GPUs."""
    ready = [node for node in nodes if _is_ready(node)]
    said = f"{len(ready)} of {len(nodes)} are ready"
    if not ready:
        advice = "Workers wait for a node: kubectl get nodes"
        return [Finding(subject="nodes", verdict=Verdict.WARNING, said=said, advice=advice)]
    counts = [int(node["status"].get("allocatable", {}).get(GPU_RESOURCE, 0)) for node in ready]
    gpus = f"{sum(counts)} on {sum(count > 0 for count in counts)} nodes"
    if not sum(counts):
        gpus = f"no node offers {GPU_RESOURCE}: jobs that ask for workers.resources.gpu would wait"
    return [
        Finding(subject="nodes", verdict=Verdict.OK, said=said),
        Finding(subject="GPUs", verdict=Verdict.OK, said=gpus),
    ]


async def _check_version(client: KubeClient, context: Context) -> Finding:
    try:
        finding = judge_version(await read_version(client))
    except ApiError as error:
        said = f"{client.server}: {explain_refusal(error)}"
        return Finding(subject="apiserver", verdict=Verdict.MISSING, said=said)
    return Finding(
        subject=finding.subject,
        verdict=finding.verdict,
        said=f"{finding.said} at {client.server}, context {context.name}",
        advice=finding.advice,
    )


async def _check_definition(client: KubeClient) -> Finding:
    try:
        served = await client.get(f"/apis/{API_VERSION}")
    except ApiError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            return _pass_over("definition", error)
        served = {"resources": []}
    if any(resource["name"] == PLURAL for resource in served["resources"]):
        said = f"{PLURAL}.{GROUP} is served"
        return Finding(subject="definition", verdict=Verdict.OK, said=said)
    said = f"{PLURAL}.{GROUP} is not installed"
    return Finding(subject="definition", verdict=Verdict.MISSING, said=said, advice=INSTALL)


async def _check_rights(client: KubeClient, namespace: str) -> Finding:
    try:
        denied = [verb for verb in NEEDED_VERBS if not await _may(client, namespace, verb)]
    except ApiError as error:
        return _pass_over("your rights", error)
    if denied:
        return Finding(
            subject="your rights",
            verdict=Verdict.MISSING,
            said=f"you may not {', '.join(denied)} {PLURAL} in namespace {namespace}",
            advice=f"Ask for the cluster role `edit` in namespace {namespace}: the chart adds "
            f"{PLURAL} to it.",
        )
    said = f"you may create and watch {PLURAL} in namespace {namespace}"
    return Finding(subject="your rights", verdict=Verdict.OK, said=said)


async def _may(client: KubeClient, namespace: str, verb: str) -> bool:
    attributes = {"group": GROUP, "resource": PLURAL, "namespace": namespace, "verb": verb}
    answer = await client.create(
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        },
    )
    return bool(answer["status"]["allowed"])


async def _check_operator(client: KubeClient) -> Finding:
    try:
        deployments, _ = await client.list_all(
            "/apis/apps/v1/deployments", labelSelector=OPERATOR_LABELS
        )
    except ApiError as error:
        return _pass_over("operator", error)
    return judge_operators(deployments)


async def _check_nodes(client: KubeClient) -> list[Finding]:
    try:
        nodes, _ = await client.list_all("/api/v1/nodes")
    except ApiError as error:
        return [_pass_over("nodes", error)]
    return judge_nodes(nodes)


def _pass_over(subject: str, error: ApiError) -> Finding:
    said = f"not looked at: {explain_refusal(error)}"
    return Finding(subject=subject, verdict=Verdict.WARNING, said=said)


def _name(item: dict[str, Any]) -> str:
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"


def _is_ready(node: dict[str, Any]) -> bool:
    conditions = node.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
