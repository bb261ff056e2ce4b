"""What a run waits for, in one word and for people: a place, an image, a Secret, a quota.

Below: `workers`. Above: `status` and `at_work`, which say it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from llmtrain_api import JobStatus
from llmtrain_api.status import ConditionType
from llmtrain_api.usage import Activity
from llmtrain_operator.plan.conditions import ConditionSet
from llmtrain_operator.plan.types import ObservedProcess, ProcessState
from llmtrain_operator.plan.workers import Worker

STARTING = "Starting"
"""Why workers are not ready where nothing is the matter: they start."""

CREATION_REFUSED = "CreationRefused"
"""Why workers that should exist do not: a quota or an admission rule is against it."""

STALL_SECONDS = 600.0
"""A worker that cannot start for so long, for want of a place aside, makes the job `Stalled`."""

IMAGE_PULL_FAILED = "ImagePullFailed"
IMAGE_REASONS = frozenset(
    {"ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "InvalidImageName"}
)
"""What a kubelet calls an image that it cannot get."""

BACK_OFF = re.compile(r'^(Back-off pulling image "[^"]*"(: )?)?(ErrImagePull: )?')
"""What it puts before the registry's own words while it waits to try again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What a stage waits for before all of its workers run."""

    reason: str = ""
    """One CamelCase word; empty where all run."""
    message: str = ""
    is_stalled: bool = False
    """It has waited so long that somebody should look."""


def explain_waiting(workers: Sequence[Worker], image: str | None, now: datetime) -> Waiting:
    """Say what the workers that do not run yet are waiting for."""
    waiting = [
        worker.newest
        for worker in workers
        if worker.newest is not None and worker.newest.state is ProcessState.WAITING
    ]
    absent = [worker for worker in workers if worker.newest is None]
    blocked = [process for process in waiting if process.waiting_reason]
    if blocked:
        return _explain_blocked(blocked, len(workers), image, now)
    if waiting or absent:
        message = _count(len(waiting) + len(absent), len(workers), "start")
        return Waiting(reason=STARTING, message=message)
    return Waiting()


def _explain_blocked(
    blocked: Sequence[ObservedProcess], total: int, image: str | None, now: datetime
) -> Waiting:
    first = blocked[0]
    reason, said = first.waiting_reason, first.waiting_message.strip()
    since = min((b.created_at for b in blocked if b.created_at is not None), default=now)
    is_stalled = (now - since).total_seconds() >= STALL_SECONDS
    if reason in IMAGE_REASONS:
        # The kubelet changes between two reasons and texts with every try.
        said = f"image {image}: {BACK_OFF.sub('', said)}" if BACK_OFF.sub("", said) else ""
        reason = IMAGE_PULL_FAILED
    who = _count(len(blocked), total, "wait")
    message = f"{who} ({reason}): {_end(said or reason)} {_ADVICE.get(reason, '')}".strip()
    return Waiting(reason=reason, message=message, is_stalled=is_stalled)


def _end(text: str) -> str:
    """End what somebody else wrote as a sentence."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _count(number: int, total: int, verb: str) -> str:
    """Say how many workers do something, as a person would."""
    if total == 1:
        return f"the worker {verb}s"
    return f"{number} of {total} workers {verb}{'s' if number == 1 else ''}"


_ADVICE = {
    "Unschedulable": "Lower workers.resources, or add nodes that fit.",
    "ImagePullFailed": "Check workers.image and the registry's credentials.",
    "CreateContainerConfigError": "Create what is missing; the pod then starts by itself.",
    "ContainerCreating": "Create what is missing; the pod then starts by itself.",
}


def explain_refusals(status: JobStatus, refusals: tuple[str, ...], now: datetime) -> JobStatus:
    """Say in the status that the platform refused to start processes, and why, in its words."""
    if not refusals:
        return status
    message = f"The platform refuses to start workers: {refusals[0]}"
    ready = status.find_condition(ConditionType.WORKERS_READY)
    if ready is not None and ready.status == "True":
        # They would have joined those that train, and these go on.
        return status.model_copy(update={"message": f"{status.message} {message}".strip()})
    conditions = ConditionSet(status.conditions, now, max(0, status.observed_generation))
    conditions.set(ConditionType.WORKERS_READY, "False", CREATION_REFUSED, message)
    conditions.set(ConditionType.RECONCILING, "True", CREATION_REFUSED, message)
    usage = status.usage and status.usage.model_copy(update={"activity": Activity.QUEUED})
    return status.model_copy(
        update={"message": message, "conditions": conditions.list_all(), "usage": usage}
    )
