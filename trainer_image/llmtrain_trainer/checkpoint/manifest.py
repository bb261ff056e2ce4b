"""The record that makes a set of objects a checkpoint.

Below: the contract's base model. Above: `saving` writes it last and conditionally,
`restore` trusts nothing else.

    checkpoints/step-00001000/round-00003/<shards>, curve.json
    checkpoints/step-00001000/manifest.json
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from llmtrain_api.base import Model
from llmtrain_trainer.store.described import ManifestObject

CHECKPOINTS = "checkpoints/"
MANIFEST = "manifest.json"
CURVE = "curve.json"
"""The loss curve up to a checkpoint, among its objects."""

CURVES = "curves.json"
"""What was calculated of a finished run's steps: losses, learning rates, gradient norms."""

PACE = "pace.json"
"""What was measured of them: times, speeds, memory."""


WEIGHT = "weight."
"""Begins the names of tensors that are trained parameters; the optimizer's are beside them."""


class CheckpointManifest(Model):
    """What a checkpoint consists of, and all that a resumed run needs besides tensors.

    The data position and the random state need no tensors: the order of the data follows from
    (seed, step), dropout from (seed, step, rank).
    """

    format_version: Literal[1] = 1

    step: int = Field(ge=0)
    """Optimizer steps done."""

    round: int = Field(ge=0)
    """The round of ranks that wrote it."""

    world_size: int = Field(ge=1)

    created: float
    """Unix seconds."""

    run_seconds: float = 0.0
    """How long the run had worked, over all its rounds."""

    validation_loss: float | None = None
    """Newest loss on held-out text, nats per token."""

    dataset: str
    """Fingerprint of the data that `step` counts in."""

    pretrained: str | None = None
    """Digest of the frozen weights that the tensors lie beside, where they are only adapters."""

    arithmetic: dict[str, Any]
    """How products were computed; a resumed run computes alike."""

    versions: dict[str, str]
    """Of the libraries that wrote it."""

    objects: list[ManifestObject]


def locate_step(step: int) -> str:
    """Return the prefix of a step's checkpoint, relative to the run."""
    return f"{CHECKPOINTS}step-{step:08d}/"


def locate_round(step: int, round_number: int) -> str:
    """Return the prefix of what one round writes for a step."""
    return f"{locate_step(step)}round-{round_number:05d}/"


def read_step(key: str) -> int | None:
    """Return the step that an object key under `checkpoints/` belongs to."""
    name = key.removeprefix(CHECKPOINTS).partition("/")[0]
    number = name.removeprefix("step-")
    return int(number) if name.startswith("step-") and number.isdigit() else None
