"""`spec.training.lora` and `freeze`: training a part of a model that was trained before.

Below: `base`. Above: `training`, which embeds these; the trainer adds matrices and freezes layers
by them, and the operator's forecast counts what is trained.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from llmtrain_api.base import Model

ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.]+$", max_length=256)]


class FreezeSpec(Model):
    """Which weights of the model at model.from stay as they are."""

    embeddings: bool = False
    """true: those of tokens and positions; where they are the output layer, too, as in most models,
    that stays with them. The tokenizer may then bring no new tokens."""

    layers: int = Field(default=0, ge=0, le=1000)
    """So many layers stay, counted from where text is read; of T5 of its encoder and its decoder
    each."""


class LoraSpec(Model):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685); the model itself stays as it is."""

    rank: int = Field(default=16, ge=1, le=1024)
    """Width of the matrices that are trained."""

    alpha: int | None = Field(default=None, ge=1, le=10_000)
    """What they write is scaled by alpha / rank. Absent: twice the rank."""

    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Probability that what they read is dropped in training."""

    targets: list[ModuleName] | None = Field(default=None, min_length=1, max_length=64)
    """Names of the layers that get them, as [q_proj, v_proj], or ends of such names. Absent: every
    linear layer but the output (Dettmers et al. 2023, arXiv:2305.14314, section 4)."""

    dora: bool = False
    """true: the length of each column of weights is trained beside its direction (Liu et al. 2024,
    DoRA, arXiv:2402.09353)."""
