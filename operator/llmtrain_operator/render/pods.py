"""A worker pod: one incarnation of one worker, under Pod Security `restricted`.

Below: `labels`, `avoidance`, `plan.grace`. Above: `world.cluster`, which creates it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from llmtrain_api import LLMTrainingJob
from llmtrain_api.naming import name_config, name_service
from llmtrain_api.records import Stage
from llmtrain_api.run import (
    AGENT_PORT,
    CA_PATH,
    CONFIG_PATH,
    CREDENTIALS_DIRECTORY,
    TERMINATION_LOG,
)
from llmtrain_operator.plan.grace import compute_grace_seconds
from llmtrain_operator.plan.stages import count_extra_workers, count_workers
from llmtrain_operator.plan.types import Process
from llmtrain_operator.render.avoidance import render_avoidance
from llmtrain_operator.render.labels import (
    label_process,
    refer_to_owner,
    select_stage,
)
from llmtrain_operator.render.services import has_service

CONTAINER = "trainer"
USER_ID = 65532
LEAVE_SECONDS = 10
"""How much of its grace the agent keeps to end ranks that did not save in time, and to say so."""
LOST_NODE_SECONDS = 30
"""How long a pod stays bound to a node that answers no more; Kubernetes' default is 300."""
PROBE_SECONDS = 5
GPU_RESOURCE = "nvidia.com/gpu"
SCRATCH_PATH = "/tmp"


def render_pod(
    job: LLMTrainingJob,
    process: Process,
    *,
    pull_policy: str,
    avoided_nodes: Iterable[str] = (),
) -> dict[str, Any]:
    """Return the pod of a process; `job.spec.workers.image` must be set."""
    workers = job.spec.workers
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "hostname": process.worker,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": compute_grace_seconds(job.status.checkpoint),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": _list_tolerations(job),
        "containers": [_render_container(job, process, pull_policy)],
        "volumes": _list_volumes(job),
    }
    if has_service(job, process.stage):
        pod["subdomain"] = name_service(process.job, process.stage)
    if count_workers(job, process.stage) + count_extra_workers(job, process.stage) > 1:
        pod["topologySpreadConstraints"] = [_spread_over_nodes(job, process.stage)]
    if workers.node_selector:
        pod["nodeSelector"] = dict(workers.node_selector)
    if nodes := tuple(avoided_nodes):
        pod["affinity"] = render_avoidance(nodes)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": process.name,
            "namespace": job.metadata.namespace,
            "labels": label_process(job, process),
            "annotations": {
                "prometheus.io/scrape": "true",
                "prometheus.io/port": str(AGENT_PORT),
                "prometheus.io/path": "/metrics",
            },
            "ownerReferences": [refer_to_owner(job)],
        },
        "spec": pod,
    }


def _render_container(job: LLMTrainingJob, process: Process, pull_policy: str) -> dict[str, Any]:
    assert job.spec.workers.image is not None, "the world fills in the default image"
    return {
        "name": CONTAINER,
        "image": job.spec.workers.image,
        "imagePullPolicy": pull_policy,
        "args": [
            "agent",
            f"--config={CONFIG_PATH}",
            f"--stage={process.stage}",
            f"--index={process.index}",
            f"--incarnation={process.incarnation}",
            f"--termination-log={TERMINATION_LOG}",
            f"--grace-seconds={compute_grace_seconds(job.status.checkpoint) - LEAVE_SECONDS}",
            *([f"--workers={process.workers}"] if process.workers is not None else []),
        ],
        # The root file system is read-only: whatever wants a home or a cache gets scratch space.
        "env": [
            {"name": name, "value": SCRATCH_PATH} for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")
        ],
        "ports": [{"name": "metrics", "containerPort": AGENT_PORT}],
        "readinessProbe": {
            "httpGet": {"path": "/healthz", "port": "metrics"},
            "periodSeconds": PROBE_SECONDS,
            "timeoutSeconds": PROBE_SECONDS,
        },
        "resources": _bound_resources(job, process.stage),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": _list_mounts(job),
    }


def _bound_resources(job: LLMTrainingJob, stage: Stage) -> dict[str, Any]:
    resources = job.spec.workers.resources
    amounts = {"cpu": resources.cpu, "memory": resources.memory}
    if resources.gpu and stage is not Stage.PREPARE:
        amounts[GPU_RESOURCE] = str(resources.gpu)
    return {"requests": amounts, "limits": dict(amounts)}


def _list_mounts(job: LLMTrainingJob) -> list[dict[str, Any]]:
    storage = job.spec.storage
    mounts: list[dict[str, Any]] = [
        {
            "name": "config",
            "mountPath": str(PurePosixPath(CONFIG_PATH).parent),
            "readOnly": True,
        },
        {"name": "scratch", "mountPath": SCRATCH_PATH},
        {"name": "shared-memory", "mountPath": "/dev/shm"},
    ]
    if storage.credentials_secret:
        mounts.append({"name": "credentials", "mountPath": CREDENTIALS_DIRECTORY, "readOnly": True})
    if storage.ca_config_map:
        folder = str(PurePosixPath(CA_PATH).parent)
        mounts.append({"name": "ca", "mountPath": folder, "readOnly": True})
    return mounts


def _list_volumes(job: LLMTrainingJob) -> list[dict[str, Any]]:
    storage = job.spec.storage
    volumes: list[dict[str, Any]] = [
        {"name": "config", "configMap": {"name": name_config(job.metadata.name)}},
        {"name": "scratch", "emptyDir": {}},
        {
            "name": "shared-memory",
            "emptyDir": {
                "medium": "Memory",
                "sizeLimit": job.spec.workers.resources.shared_memory,
            },
        },
    ]
    if storage.credentials_secret:
        volumes.append(
            {
                "name": "credentials",
                "secret": {"secretName": storage.credentials_secret, "defaultMode": 0o440},
            }
        )
    if storage.ca_config_map:
        volumes.append({"name": "ca", "configMap": {"name": storage.ca_config_map}})
    return volumes


def _list_tolerations(job: LLMTrainingJob) -> list[dict[str, Any]]:
    asked = [toleration.dump() for toleration in job.spec.workers.tolerations]
    lost_node = [
        {
            "key": f"node.kubernetes.io/{condition}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": LOST_NODE_SECONDS,
        }
        for condition in ("not-ready", "unreachable")
    ]
    return asked + lost_node


def _spread_over_nodes(job: LLMTrainingJob, stage: Stage) -> dict[str, Any]:
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": select_stage(job, stage)},
    }
