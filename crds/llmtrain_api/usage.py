"""The ledger of a run: where its time went.

Below: `base`. Above: `status` embeds it, the operator's `plan.ledger` keeps it.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from llmtrain_api.base import Model


class Activity(StrEnum):
    """What a run is at, as far as its time is concerned."""

    QUEUED = "queued"
    """Waits for nodes, quota, an image, or something else that is missing."""
    PREPARING = "preparing"
    STARTING = "starting"
    """Workers start, meet and restore."""
    TRAINING = "training"
    CHECKPOINTING = "checkpointing"
    """Ranks wait for a checkpoint or the export."""
    EVALUATING = "evaluating"
    """While training or after it."""
    DOWN = "down"
    """A worker was lost and is not replaced yet."""
    SUSPENDED = "suspended"


IDLE = frozenset({Activity.QUEUED, Activity.SUSPENDED})
"""While a run is at these, it holds no machine."""


class Usage(Model):
    """Seconds of wall-clock time by what they went into. They sum up to the age of the run."""

    activity: Activity | None = None
    """What the run is at; the time since updatedAt goes there."""

    queued_seconds: float = Field(default=0.0, ge=0)
    """Waiting for nodes, quota, an image, or something else that is missing."""

    preparing_seconds: float = Field(default=0.0, ge=0)
    """Preparing data."""

    starting_seconds: float = Field(default=0.0, ge=0)
    """Starting workers, meeting, restoring."""

    training_seconds: float = Field(default=0.0, ge=0)
    """Steps that the model consists of."""

    lost_seconds: float = Field(default=0.0, ge=0)
    """Steps that had to be repeated, since they were after the newest checkpoint."""

    checkpointing_seconds: float = Field(default=0.0, ge=0)
    """Ranks waiting for a checkpoint or the export; uploads meanwhile cost nothing."""

    evaluating_seconds: float = Field(default=0.0, ge=0)
    """Evaluating, while training or after it."""

    down_seconds: float = Field(default=0.0, ge=0)
    """A worker was lost and not replaced yet."""

    suspended_seconds: float = Field(default=0.0, ge=0)
    """Suspended by runPolicy.suspend."""

    lost_steps: int = Field(default=0, ge=0)
    """Steps that had to be repeated."""

    goodput_percent: int | None = Field(default=None, ge=0, le=100)
    """Share of trainingSeconds in all seconds but the suspended ones."""

    updated_at: str | None = None
    """When this was written (RFC 3339, UTC)."""

    @property
    def held_seconds(self) -> float:
        """How long the run had machines: all of it but waiting for them and suspensions."""
        held = [activity for activity in Activity if activity not in IDLE]
        seconds: list[float] = [getattr(self, f"{name}_seconds") for name in held]
        return sum(seconds) + self.lost_seconds
