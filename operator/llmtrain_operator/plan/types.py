"""The words of a decision: what was observed, and what shall be.

Below: the contract (`llmtrain_api`). Above: the rest of `plan` decides in these words, `render`
and `world` carry them out. Everything is frozen: a plan is a value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from llmtrain_api.naming import name_process, name_worker
from llmtrain_api.records import ExitRecord, ProgressRecord, Stage
from llmtrain_api.status import JobStatus

MEETING_STAGES = frozenset({Stage.TRAIN, Stage.EVALUATE})
"""Stages whose workers meet and can only work all together. Tasks of preparation share what they
do through the store: each works for itself, and what is left of one that ended is done by others.
"""


class ProcessState(StrEnum):
    """Where a process is in its life. `LEAVING` has been told to stop and may still run."""

    WAITING = "waiting"
    RUNNING = "running"
    LEAVING = "leaving"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One incarnation of one worker of a stage: a pod in a cluster, a process on one machine."""

    job: str
    stage: Stage
    index: int
    incarnation: int
    workers: int | None = field(default=None, compare=False)
    """How many workers it is told that there are; None: `workers.replicas`, which is fixed."""

    @property
    def name(self) -> str:
        """The pod's name: changes with the incarnation."""
        return name_process(self.job, self.stage, self.index, self.incarnation)

    @property
    def worker(self) -> str:
        """The host name that peers meet it at: stays over incarnations."""
        return name_worker(self.job, self.stage, self.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedProcess:
    """A process that exists, and the facts that a decision needs of it."""

    process: Process
    state: ProcessState
    ready: bool = False
    """Its agent answers."""
    address: str | None = None
    """host:port of its agent, once it has one."""
    node: str | None = None
    avoids: frozenset[str] = frozenset()
    """Nodes that it was told to keep away from."""
    created_at: datetime | None = None
    started_at: datetime | None = None
    """When its node took it up."""
    finished_at: datetime | None = None
    exit_code: int | None = None
    exit_record: ExitRecord | None = None
    ended_by: str = ""
    """Where no exit record came back: why, as the platform says (OOMKilled, NodeLost, Deleted)."""
    end_message: str = ""
    """What the platform says about that."""
    waiting_reason: str = ""
    """Why it does not run yet, as the platform says (Unschedulable, ImagePullBackOff, …)."""
    waiting_message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Everything that a plan is made from besides the job itself."""

    processes: tuple[ObservedProcess, ...] = ()
    progress: ProgressRecord | None = None
    """What worker 0 of the current stage last said of itself."""
    refusals: tuple[str, ...] = ()
    """Why the platform refused the last creations (quota, admission), in its own words."""


class EventKind(StrEnum):
    """The two types of a Kubernetes Event."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something worth telling people once."""

    kind: EventKind
    reason: str
    message: str


def tell(reason: str, message: str) -> Event:
    """Return an event of the ordinary kind."""
    return Event(kind=EventKind.NORMAL, reason=reason, message=message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What shall be: processes to start and to remove, the status, and what to tell."""

    status: JobStatus
    start: tuple[Process, ...] = ()
    """Processes that should exist and do not."""
    remove: tuple[Process, ...] = ()
    """Processes that exist and should not (any more)."""
    events: tuple[Event, ...] = field(default=())
    requeue_after_seconds: float | None = None
    """Look again then, even if nothing happens."""
