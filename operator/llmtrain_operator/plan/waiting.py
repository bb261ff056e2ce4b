"""What a run waits for, in one word and for people: a place, an image, a Secret, a quota.

Below: `workers`. Above: `status` and `at_work`, which say it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from llmtrain_api import JobStatus
from llmtrain_api.status import ConditionType
from llmtrain_api.usage import Activity
from llmtrain_operator.plan.conditions import ConditionSet
from llmtrain_operator.plan.types import ObservedProcess, ProcessState
from llmtrain_operator.plan.workers import Worker

STARTING = "Starting"
"""Why workers are not ready where nothing is the matter: they start."""


def explain_waiting(workers: Sequence[Worker]) -> tuple[str, str]:
    """Return (reason, message) for the workers that do not run yet; empty where all run."""
    waiting = [
        worker.newest
        for worker in workers
        if worker.newest is not None and worker.newest.state is ProcessState.WAITING
    ]
    absent = [worker for worker in workers if worker.newest is None]
    blocked = [process for process in waiting if process.waiting_reason]
    if blocked:
        return _explain_blocked(blocked, len(workers))
    if waiting or absent:
        return STARTING, _count(len(waiting) + len(absent), len(workers), "start")
    return "", ""


def _explain_blocked(blocked: Sequence[ObservedProcess], total: int) -> tuple[str, str]:
    first = blocked[0]
    advice = _ADVICE.get(first.waiting_reason, "")
    said = first.waiting_message.strip() or first.waiting_reason
    message = f"{_count(len(blocked), total, 'wait')} ({first.waiting_reason}): {said}"
    return first.waiting_reason, f"{message} {advice}".strip()


def _count(number: int, total: int, verb: str) -> str:
    """Say how many workers do something, as a person would."""
    if total == 1:
        return f"the worker {verb}s"
    return f"{number} of {total} workers {verb}{'s' if number == 1 else ''}"


_ADVICE = {
    "Unschedulable": "Lower workers.resources, or add nodes that fit.",
    "ImagePullBackOff": "Check workers.image and the registry's credentials.",
    "ErrImagePull": "Check workers.image and the registry's credentials.",
    "ErrImageNeverPull": "The image is not on the node, and may not be pulled.",
    "InvalidImageName": "Check workers.image.",
    "CreateContainerConfigError": "Create what is missing; the pod then starts by itself.",
    "ContainerCreating": "Create what is missing; the pod then starts by itself.",
}


def explain_refusals(status: JobStatus, refusals: tuple[str, ...], now: datetime) -> JobStatus:
    """Say in the status that the platform refused to start processes, and why, in its words."""
    if not refusals:
        return status
    message = f"The platform refuses to start workers: {refusals[0]}"
    conditions = ConditionSet(status.conditions, now, max(0, status.observed_generation))
    conditions.set(ConditionType.WORKERS_READY, "False", "CreationRefused", message)
    conditions.set(ConditionType.RECONCILING, "True", "CreationRefused", message)
    usage = status.usage and status.usage.model_copy(update={"activity": Activity.QUEUED})
    return status.model_copy(
        update={"message": message, "conditions": conditions.list_all(), "usage": usage}
    )
