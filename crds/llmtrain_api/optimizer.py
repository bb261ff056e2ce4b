"""`training.optimizer`: the rule of updates, and how its learning rate goes.

Below: `base`. Above: `training`.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from llmtrain_api.base import Model


class Schedule(StrEnum):
    """How the learning rate goes after warm-up."""

    COSINE = "cosine"
    LINEAR = "linear"
    WSD = "wsd"
    CONSTANT = "constant"


class OptimizerKind(StrEnum):
    """Rules by which weights follow their gradients."""

    ADAMW = "adamw"
    MUON = "muon"
    ADAFACTOR = "adafactor"


DEFAULT_WEIGHT_DECAY = 0.1


class OptimizerSpec(Model):
    """The rule of updates, and its learning rate."""

    kind: OptimizerKind = OptimizerKind.ADAMW
    """adamw: Adam with decoupled weight decay (Loshchilov & Hutter 2019). muon: matrices of blocks
    by momentum that is made orthogonal (Jordan et al. 2024), at AdamW's learning rate; all else by
    AdamW. adafactor: squares by row and column alone, and no momentum, in almost no memory (Shazeer
    & Stern 2018)."""

    learning_rate: float | None = Field(default=None, gt=0.0, le=10.0)
    """Peak learning rate, reached after warm-up. Absent: as model.size asks for, or
    0.001; with model.from 0.00005, and with lora 0.0002. Of adafactor it is relative to the size of
    each weight: 0.01, and with model.from 0.001."""

    schedule: Schedule = Schedule.COSINE
    """What follows warm-up. cosine and linear: down to finalLearningRateRatio; wsd: the peak, and
    down in a line over the last decayFraction of the steps; constant: the peak."""

    decay_fraction: float = Field(default=0.2, gt=0.0, le=1.0)
    """For wsd: share of all steps over which the learning rate goes down."""

    final_learning_rate_ratio: float = Field(default=0.1, ge=0.0, le=1.0)
    """Learning rate of the last step, as a share of the peak; not for constant."""

    warmup_steps: int | None = Field(default=None, ge=0, le=10_000_000)
    """Steps over which the learning rate rises from 0 to the peak, at most training.steps;
    absent: a tenth of the steps, at most 1,000."""

    weight_decay: float | None = Field(default=None, ge=0.0, le=1.0)
    """Decay of matrices; vectors (biases, norms) are not decayed. Absent: 0.1; of adafactor 0."""

    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """For adamw, and what muon leaves to it: decay of the gradient's running mean."""

    beta2: float = Field(default=0.95, ge=0.0, lt=1.0)
    """For the same: decay of the squared gradient's running mean."""

    momentum: float = Field(default=0.95, ge=0.0, lt=1.0)
    """For muon: decay of the gradient's running mean."""

    gradient_clip_norm: float = Field(default=1.0, ge=0.0, le=1e6)
    """Largest L2 norm of the gradient over all parameters; 0 turns clipping off."""

    def find_weight_decay(self) -> float:
        """Return the decay of matrices, as given or as is usual for the rule."""
        if self.weight_decay is not None:
            return self.weight_decay
        return 0.0 if self.kind is OptimizerKind.ADAFACTOR else DEFAULT_WEIGHT_DECAY
