"""What a plan needs to know of a pod, read from what the API says of it. Pure.

Below: `plan.types`. Above: `pod_store`, which keeps these instead of whole pods.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from llmtrain_api import KIND, ExitRecord
from llmtrain_api.records import Stage
from llmtrain_api.run import AGENT_PORT
from llmtrain_operator.plan.types import ObservedProcess, Process, ProcessState
from llmtrain_operator.render.avoidance import read_avoided_nodes
from llmtrain_operator.render.labels import (
    INCARNATION_LABEL,
    INDEX_LABEL,
    JOB_LABEL,
    STAGE_LABEL,
    WORKERS_LABEL,
)

STATE_OF_PHASE = {
    "Pending": ProcessState.WAITING,
    "Running": ProcessState.RUNNING,
    "Succeeded": ProcessState.SUCCEEDED,
    "Failed": ProcessState.FAILED,
}
ENDED_STATES = frozenset({ProcessState.SUCCEEDED, ProcessState.FAILED})

CAUSE_OF_DISRUPTION = {
    "PreemptionByScheduler": "Preempted",
    "DeletionByTaintManager": "NodeLost",
    "DeletionByPodGC": "NodeLost",
    "EvictionByEvictionAPI": "Evicted",
    "TerminationByKubelet": "Evicted",
}
"""Reasons of the pod condition DisruptionTarget, in the words of `plan.failures`."""

CAUSE_OF_POD_REASON = {
    "Evicted": "Evicted",
    "NodeLost": "NodeLost",
    "Terminated": "NodeShutdown",
    "NodeShutdown": "NodeShutdown",
    "Preempting": "Preempted",
}
ORDINARY_ENDS = frozenset({"Completed", "Error"})
"""Reasons of a terminated container that say no more than its exit code."""
ORDINARY_WAITS = frozenset({"ContainerCreating", "PodInitializing"})
"""Reasons of a waiting container that mean: nothing is wrong yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFacts:
    """One of our pods: who owns it, which version of it was seen, and what it says."""

    key: str
    """`namespace/name` of its job."""
    uid: str
    owner_uid: str
    """uid of the job object that it belongs to: a job made anew is another owner."""
    version: int
    """Its resource version: of two of one pod, the greater is the newer."""
    observed: ObservedProcess
    deadline: datetime | None
    """When its grace ends, if it was told to go."""


def read_pod(pod: dict[str, Any]) -> PodFacts | None:
    """Read a pod; None where it is not one of ours."""
    metadata = pod["metadata"]
    owner_uid = find_owner(metadata)
    process = _read_process(metadata.get("labels") or {})
    if owner_uid is None or process is None or metadata["name"] != process.name:
        return None
    return PodFacts(
        key=f"{metadata['namespace']}/{process.job}",
        uid=metadata["uid"],
        owner_uid=owner_uid,
        version=int(metadata["resourceVersion"]),
        observed=_observe(process, pod),
        deadline=_parse_time(metadata.get("deletionTimestamp")),
    )


def find_owner(metadata: dict[str, Any]) -> str | None:
    """Return the uid of the job that controls an object, if one does."""
    for reference in metadata.get("ownerReferences", []):
        if reference.get("controller") and reference["kind"] == KIND:
            uid: str = reference["uid"]
            return uid
    return None


def _read_process(labels: dict[str, str]) -> Process | None:
    try:
        return Process(
            job=labels[JOB_LABEL],
            stage=Stage(labels[STAGE_LABEL]),
            index=int(labels[INDEX_LABEL]),
            incarnation=int(labels[INCARNATION_LABEL]),
            workers=int(labels[WORKERS_LABEL]) if WORKERS_LABEL in labels else None,
        )
    except (KeyError, ValueError):
        return None


def _observe(process: Process, pod: dict[str, Any]) -> ObservedProcess:
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status", {})
    conditions = {c["type"]: c for c in status.get("conditions") or []}
    containers = status.get("containerStatuses") or [{}]
    container = containers[0].get("state", {})
    state = STATE_OF_PHASE.get(status.get("phase", "Pending"), ProcessState.WAITING)
    if "deletionTimestamp" in metadata and state not in ENDED_STATES:
        state = ProcessState.LEAVING
    ended = container.get("terminated", {}) if state in ENDED_STATES else {}
    finished_at = _parse_time(ended.get("finishedAt"))
    reason, message = _explain_waiting(conditions, container, state)
    return ObservedProcess(
        process=process,
        state=state,
        ready=conditions.get("Ready", {}).get("status") == "True",
        address=f"{status['podIP']}:{AGENT_PORT}" if status.get("podIP") else None,
        node=spec.get("nodeName"),
        avoids=read_avoided_nodes(spec),
        created_at=_parse_time(metadata["creationTimestamp"]),
        started_at=_parse_time(status.get("startTime")),
        finished_at=finished_at,
        exit_code=ended.get("exitCode"),
        exit_record=_read_exit_record(ended.get("message")),
        ended_by=(
            _explain_end(metadata, status, conditions, ended, finished_at)
            if state is ProcessState.FAILED
            else ""
        ),
        end_message=status.get("message", "") if state is ProcessState.FAILED else "",
        waiting_reason=reason,
        waiting_message=message,
    )


def _explain_waiting(
    conditions: dict[str, dict[str, Any]], container: dict[str, Any], state: ProcessState
) -> tuple[str, str]:
    if state is not ProcessState.WAITING:
        return "", ""
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return scheduled.get("reason", ""), scheduled.get("message", "")
    waiting = container.get("waiting", {})
    if waiting.get("reason", "") in ORDINARY_WAITS:
        return "", ""
    return waiting.get("reason", ""), waiting.get("message", "")


def _explain_end(
    metadata: dict[str, Any],
    status: dict[str, Any],
    conditions: dict[str, dict[str, Any]],
    ended: dict[str, Any],
    finished_at: datetime | None,
) -> str:
    """Say why the platform ended a pod, or "" where the pod ended by itself."""
    reason = status.get("reason", "")
    if reason in CAUSE_OF_POD_REASON:
        return CAUSE_OF_POD_REASON[reason]
    disruption = conditions.get("DisruptionTarget", {})
    if disruption.get("status") == "True":
        return CAUSE_OF_DISRUPTION.get(disruption.get("reason", ""), "Deleted")
    if _was_told_to_go(metadata, finished_at):
        return "Deleted"
    container_reason: str = ended.get("reason", "")
    return reason or ("" if container_reason in ORDINARY_ENDS else container_reason)


def _was_told_to_go(metadata: dict[str, Any], finished_at: datetime | None) -> bool:
    """Tell whether a pod ended after its deletion was asked for, and so because of it."""
    deadline = _parse_time(metadata.get("deletionTimestamp"))
    if deadline is None:
        return False
    asked_at = deadline - timedelta(seconds=metadata.get("deletionGracePeriodSeconds", 0))
    return finished_at is None or finished_at >= asked_at


def _read_exit_record(message: str | None) -> ExitRecord | None:
    if not message:
        return None
    try:
        return ExitRecord.model_validate_json(message, extra="ignore")
    except ValidationError:
        return None


def _parse_time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
