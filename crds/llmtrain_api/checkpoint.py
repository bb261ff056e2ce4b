"""`spec.checkpoint`: how often the training state is saved, what is kept, and where a run begins.

Below: `base`, `sources`. Above: `job`, which embeds it, and `run`, which hands it to the trainer.
"""

from __future__ import annotations

from typing import Self

from pydantic import ConfigDict, Field, model_validator

from llmtrain_api.base import MAX_NAME_CHARACTERS, Model, cel
from llmtrain_api.sources import S3Uri

DEFAULT_EVERY_STEPS = 200
"""Steps between checkpoints where the manifest says nothing."""


class RestoreFrom(Model):
    """A checkpoint of another run to begin from: weights, optimizer and step."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel("has(self.uri) != has(self.job)", "give either uri or job", field="uri"),
            ]
        }
    )

    uri: S3Uri | None = None
    """The run, as its status.provenance.runUri says, in the same store."""

    job: str | None = Field(
        default=None, pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$", max_length=MAX_NAME_CHARACTERS
    )
    """In place of uri: a job of the same namespace and storage.uri."""

    step: int | None = Field(default=None, ge=0, le=100_000_000)
    """Which of its checkpoints; absent: the newest that verifies."""

    @model_validator(mode="after")
    def check_source(self) -> Self:
        """Hold the CEL rule of this model in Python too."""
        if (self.uri is None) == (self.job is None):
            raise ValueError("give either uri or job")
        return self


class CheckpointSpec(Model):
    """Saving the training state, so that nothing longer than an interval is lost.

    Of everySteps, everyMinutes and auto at most one is given; there is always a checkpoint after
    the last step.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "(has(self.everySteps) ? 1 : 0) + (has(self.everyMinutes) ? 1 : 0) + "
                    "(self.auto ? 1 : 0) <= 1",
                    "give at most one of everySteps, everyMinutes and auto",
                    field="everySteps",
                ),
            ]
        }
    )

    every_steps: int | None = Field(default=None, ge=1, le=100_000_000)
    """Steps between checkpoints; absent, with everyMinutes and auto: 200."""

    every_minutes: float | None = Field(default=None, gt=0.0, le=10_080.0)
    """Minutes between checkpoints."""

    auto: bool = False
    """true: the interval that costs least, from what a save and a failure are measured to cost;
    status.checkpoint.intervalSeconds says which it is."""

    keep_last: int = Field(default=2, ge=1, le=1000)
    """Newest checkpoints that are kept; older ones are deleted, except for those below and those
    that are pinned."""

    keep_every: int | None = Field(default=None, ge=1, le=100_000_000)
    """Checkpoints whose step is a multiple of this are kept for good."""

    keep_best: int = Field(default=0, ge=0, le=1000)
    """Checkpoints with the lowest loss on held-out text that are kept, too."""

    restore_from: RestoreFrom | None = None
    """Where a run begins that has no checkpoint of its own; absent: from random weights."""

    @model_validator(mode="after")
    def check_interval(self) -> Self:
        """Hold the CEL rule of this model in Python too."""
        chosen = (self.every_steps is not None) + (self.every_minutes is not None) + self.auto
        if chosen > 1:
            raise ValueError("give at most one of everySteps, everyMinutes and auto")
        return self
