"""`status.plan`: what a job is expected to take, said before it takes it.

Below: `base`. Above: `status` embeds it; the operator's forecast computes it, as for `llmtrain
plan`.
"""

from __future__ import annotations

from pydantic import Field

from llmtrain_api.base import Model


class PlanStatus(Model):
    """What the job is expected to take; said when it is first seen, and once its data is known."""

    tokens: int | None = Field(default=None, ge=0)
    """Training tokens of all steps; absent with training.epochs until the data is prepared."""

    data_tokens: int | None = Field(default=None, ge=0)
    """Tokens of the training split; absent until the data is prepared."""

    epochs: float | None = Field(default=None, ge=0)
    """How often training reads its data; absent until the data is prepared, and where documents are
    read each by itself."""

    parameters: int | None = Field(default=None, ge=0)
    """Of the model; absent with model.from, whose shape the operator does not read."""

    trained_parameters: int | None = Field(default=None, ge=0)
    """Those of them that change."""

    memory_bytes: int | None = Field(default=None, ge=0)
    """Most that a rank needs at once for training, on its GPU or of its worker's memory."""

    memory_limit_bytes: int | None = Field(default=None, ge=0)
    """What a rank has for that; absent where the GPU is not known by the node selector."""

    flops: float | None = Field(default=None, ge=0)
    """Floating-point operations of all steps, forward and backward."""

    training_seconds: int | None = Field(default=None, ge=0)
    """Training alone, on the GPUs that the node selector names; absent where it names none."""

    warnings: list[str] = Field(default=[], max_length=8)
    """What is unwise about it, and what to do."""
