"""Why processes end without success, in a closed set of classes, and how much of each is borne.

Below: `base` and the exit codes of `records`. Above: `workers` embeds the budgets in
`spec.runPolicy`, `status` writes the class of every attempt, the operator's `plan.failures`
judges.

The split by who has to act is that of Kubernetes' podFailurePolicy and of the failure taxonomy in
Meta's "The Llama 3 Herd of Models" (2024), table 5: the job itself, its machine, or nobody.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from llmtrain_api.base import Model
from llmtrain_api.records import ExitCode


class FailureClass(StrEnum):
    """What kind of thing went wrong."""

    CONFIGURATION = "configuration"
    """The manifest asks for what cannot be."""
    DATA = "data"
    """The data cannot be used as it is."""
    DIVERGED = "diverged"
    """The loss became infinite, not a number, or ran away."""
    STORAGE = "storage"
    """The store did not answer or refused."""
    HOST_MEMORY = "hostMemory"
    """The worker's memory ran out."""
    DEVICE_MEMORY = "deviceMemory"
    """A GPU's memory ran out."""
    NO_SPACE = "noSpace"
    """A disk or /dev/shm is full."""
    DEVICE = "device"
    """A GPU is broken."""
    HANG = "hang"
    """Ranks stood still."""
    CRASH = "crash"
    """A process was killed or ended without saying why."""
    BUG = "bug"
    """An error that nobody foresaw."""
    PEER_LOST = "peerLost"
    """Another worker went away, and that one is judged for it."""
    IMAGE = "image"
    """The trainer image cannot be had or run."""
    PREEMPTED = "preempted"
    """It was asked to leave."""
    NODE_LOST = "nodeLost"
    """Its node went away."""
    INFRASTRUCTURE = "infrastructure"
    """The platform took it away otherwise."""


FATAL_CLASSES = frozenset({FailureClass.CONFIGURATION, FailureClass.DATA, FailureClass.DIVERGED})
"""Another attempt would end alike."""

FREE_CLASSES = frozenset(
    {
        FailureClass.DEVICE,
        FailureClass.PEER_LOST,
        FailureClass.PREEMPTED,
        FailureClass.NODE_LOST,
        FailureClass.INFRASTRUCTURE,
    }
)
"""They say nothing against the job, and cost nothing of runPolicy.restartLimit."""

CLASS_OF_EXIT_CODE = {
    ExitCode.BUG: FailureClass.BUG,
    ExitCode.CONFIGURATION: FailureClass.CONFIGURATION,
    ExitCode.DATA: FailureClass.DATA,
    ExitCode.STORAGE: FailureClass.STORAGE,
    ExitCode.OUT_OF_MEMORY: FailureClass.HOST_MEMORY,
    ExitCode.DIVERGED: FailureClass.DIVERGED,
    ExitCode.PEER_LOST: FailureClass.PEER_LOST,
    ExitCode.PREEMPTED: FailureClass.PREEMPTED,
    ExitCode.RANK_LOST: FailureClass.CRASH,
    ExitCode.HUNG: FailureClass.HANG,
    ExitCode.DEVICE_OUT_OF_MEMORY: FailureClass.DEVICE_MEMORY,
    ExitCode.DEVICE_FAULT: FailureClass.DEVICE,
    ExitCode.NO_SPACE: FailureClass.NO_SPACE,
}
"""Every exit code but success."""


class FailureBudgets(Model):
    """Failures of one class that are borne over the whole run, instead of restartLimit."""

    storage: int | None = Field(default=None, ge=0, le=10_000)
    """Processes that may end because the store failed; absent: restartLimit counts them."""

    host_memory: int | None = Field(default=None, ge=0, le=10_000)
    """Processes that may run out of memory; absent: restartLimit counts them."""

    device_memory: int | None = Field(default=None, ge=0, le=10_000)
    """Processes that may run out of a GPU's memory; absent: restartLimit counts them."""

    no_space: int | None = Field(default=None, ge=0, le=10_000)
    """Processes that may end because a disk is full; absent: restartLimit counts them."""

    hang: int | None = Field(default=None, ge=0, le=10_000)
    """Processes that may end because their ranks stood still; absent: restartLimit counts them."""

    crash: int | None = Field(default=None, ge=0, le=10_000)
    """Processes that may be killed or end without a word; absent: restartLimit counts them."""

    bug: int | None = Field(default=None, ge=0, le=10_000)
    """Processes that may meet an unforeseen error; absent: restartLimit counts them."""

    device: int = Field(default=20, ge=0, le=10_000)
    """Processes that may end because a GPU is broken; their nodes are avoided meanwhile."""

    def find_limit(self, kind: FailureClass) -> int | None:
        """Return how many failures of a class are borne; None where no budget is its own."""
        values = self.model_dump(by_alias=True)
        limit: int | None = values.get(kind.value)
        return limit
