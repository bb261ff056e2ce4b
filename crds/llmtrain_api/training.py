"""`spec.training`: how the model is trained.

Below: `base`, `objective`, `optimizer`, `lora`. Above: `job`, which embeds it, and `run`, which
hands it to the trainer.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Self

from pydantic import ConfigDict, Field, model_validator

from llmtrain_api.base import Model, cel
from llmtrain_api.lora import FreezeSpec, LoraSpec
from llmtrain_api.network import ModelSpec
from llmtrain_api.objective import ClassWeights, LossOn, MaskingSpec, Objective, SpanCorruptionSpec
from llmtrain_api.optimizer import OptimizerKind, OptimizerSpec

FINE_TUNING_LEARNING_RATE = 5e-5
"""The highest of those of Devlin et al. 2019 (arXiv:1810.04805, section A.3)."""

LORA_LEARNING_RATE = 2e-4
"""Dettmers et al. 2023 (QLoRA, arXiv:2305.14314, table 9)."""

ADAFACTOR_LEARNING_RATE, ADAFACTOR_FINE_TUNING_LEARNING_RATE = 1e-2, 1e-3
"""Shazeer and Stern 2018 (arXiv:1804.04235, section 8); Raffel et al. 2020, section 3.1.2."""

CPU_LOGITS_MEBIBYTES, GPU_LOGITS_MEBIBYTES = 64, 512
"""Chunks of logits are as small as costs no time. For each one the gradient of the output layer,
which is kept in fp32, is read and written once: on GPUs that asks for more targets at a time."""


DEFAULT_BATCH_SIZE = 32
"""Sequences of a step where the manifest says nothing."""

BATCH_RULE = "give either batchSize, in sequences, or batchTokens"
BATCH_TOKENS_RULE = "batchTokens must be a multiple of sequenceLength"
MICRO_BATCH_RULE = "give either microBatchSize, or autoMicroBatch to have it found"
LENGTH_RULE = "give exactly one of steps, tokens and epochs"
FREEZE_RULE = "with training.lora the whole model stays as it is; give either lora or freeze"


def write_batch_in_cel(path: str) -> str:
    """Return CEL for `TrainingSpec.global_batch` of the spec at `path`."""
    return (
        f"(has({path}.batchTokens) ? {path}.batchTokens / {path}.sequenceLength : "
        f"has({path}.batchSize) ? {path}.batchSize : {DEFAULT_BATCH_SIZE})"
    )


class Precision(StrEnum):
    """Arithmetic of the forward and backward pass; weights and optimizer state stay fp32."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class ActivationCheckpointing(StrEnum):
    """What a block keeps of its forward pass for the backward pass."""

    NONE = "none"
    SELECTIVE = "selective"
    FULL = "full"


class DivergenceAction(StrEnum):
    """What is done about a loss that runs away."""

    STOP = "stop"
    ROLLBACK = "rollback"


class DivergenceSpec(Model):
    """What a loss that runs away is, and what is done about it."""

    action: DivergenceAction = DivergenceAction.STOP
    """stop: a loss or gradient that is not finite ends the run, and spikes are counted only.
    rollback: after either, training goes on from a checkpoint from before it, without the batches
    since, which are recorded in divergence.json of the run."""

    spike_deviations: float = Field(default=10.0, ge=2.0, le=1000.0)
    """How far above the median of the last 128 losses a spike is, in standard deviations (from the
    median absolute deviation), and at least a tenth of the median."""

    spike_steps: int = Field(default=5, ge=1, le=10_000)
    """Steps in a row that must be so far above."""

    max_rollbacks: int = Field(default=3, ge=1, le=1000)
    """Rollbacks of a run; another divergence ends it."""


class EarlyStoppingSpec(Model):
    """When training ends before its last step."""

    patience: int = Field(default=3, ge=1, le=10_000)
    """Evaluations in a row without an improvement, after which training ends."""

    min_change: float = Field(default=0.0, ge=0.0, le=100.0)
    """How far below the best one the loss on held-out text must be to count as an improvement, in
    nats per target."""


class TrainingSpec(Model):
    """How the model is trained."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    f"!has(self.microBatchSize) || {write_batch_in_cel('self')} % "
                    "self.microBatchSize == 0",
                    "batchSize must be a multiple of microBatchSize",
                    field="microBatchSize",
                ),
                cel(
                    "!has(self.batchSize) || !has(self.batchTokens)",
                    BATCH_RULE,
                    field="batchTokens",
                ),
                cel(
                    "!has(self.batchTokens) || (self.batchTokens % self.sequenceLength == 0 && "
                    "self.batchTokens >= self.sequenceLength)",
                    BATCH_TOKENS_RULE,
                    field="batchTokens",
                ),
                cel(
                    "!has(self.microBatchSize) || !self.autoMicroBatch",
                    MICRO_BATCH_RULE,
                    field="autoMicroBatch",
                ),
                cel(
                    "(has(self.steps) ? 1 : 0) + (has(self.tokens) ? 1 : 0) + "
                    "(has(self.epochs) ? 1 : 0) == 1",
                    LENGTH_RULE,
                    field="steps",
                ),
                cel(
                    "!has(self.lora) || !has(self.freeze)",
                    FREEZE_RULE,
                    field="freeze",
                ),
            ]
        }
    )

    steps: int | None = Field(default=None, ge=1, le=100_000_000)
    """Optimizer steps of the whole run. Exactly one of steps, tokens and epochs is given."""

    tokens: int | None = Field(default=None, ge=1, le=1_000_000_000_000_000)
    """In place of steps: as many steps as it takes to read so many tokens, batchSize ×
    sequenceLength in each."""

    epochs: float | None = Field(default=None, gt=0.0, le=10_000.0)
    """In place of steps: as many steps as it takes to read the training split so often."""

    batch_size: int | None = Field(default=None, ge=1, le=1_000_000)
    """Global batch in sequences: all ranks and accumulation together make one step of it. Absent,
    with batchTokens: 32."""

    batch_tokens: int | None = Field(default=None, ge=8, le=1_000_000_000_000)
    """In place of batchSize: the global batch in tokens, a multiple of sequenceLength."""

    micro_batch_size: int | None = Field(default=None, ge=1, le=1_000_000)
    """Sequences of one forward pass on one rank; absent: the rank's whole share of the batch."""

    auto_micro_batch: bool = False
    """true, without microBatchSize: the largest micro-batch that fits the memory of a rank. It is
    found by a trial when the run first begins, and kept with the run, so that what resumes has the
    same."""

    sequence_length: int = Field(default=256, ge=8, le=1_048_576)
    """Tokens of a training sequence, and the model's context."""

    objective: Objective | None = None
    """causal: the next token; masked: hidden tokens; span-corruption: what was cut out;
    classification: the class of each document, by data.sources[].fields.label, or by fields.labels
    each of its classes;
    sequence-to-sequence: what answers a text, by fields.source and target, or prompt and response.
    Absent: what the architecture is for."""

    loss_on: LossOn | None = None
    """For causal. assistant: of conversations only the turns of the assistant, each with its end,
    and all of documents that are none; all: every token. Absent: assistant where a source's fields
    make conversations, else all. Padding is never learned."""

    class_weights: ClassWeights = ClassWeights.NONE
    """For classification. balanced: a document counts the less in the loss, the more documents of
    its class there are (documents / (classes × documents of the class)); with fields.labels the
    same of those that have a label and those that have it not, for each label by itself. none: all
    count alike."""

    masking: MaskingSpec = MaskingSpec()
    """For masked."""

    span_corruption: SpanCorruptionSpec = SpanCorruptionSpec()
    """For span-corruption."""

    lora: LoraSpec | None = None
    """For models that go on from another one: what is trained beside it. Absent: all weights."""

    freeze: FreezeSpec | None = None
    """For models that go on from another one: which of its weights stay. Absent: none."""

    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of a target's probability that is spread over the vocabulary, in training only."""

    optimizer: OptimizerSpec = OptimizerSpec()
    """How weights follow their gradients."""

    logits_mebibytes: int | None = Field(default=None, ge=1, le=1_048_576)
    """Most memory that logits may take at a time, in MiB of fp32 numbers. Where a forward pass has
    more, its loss and the gradients of that are computed for so many targets at a time, with the
    same result. Absent: 64, on GPUs 512."""

    activation_checkpointing: ActivationCheckpointing = ActivationCheckpointing.NONE
    """full: each block keeps its input alone, and is computed again in the backward pass, with the
    same gradients; a step has a third more arithmetic, and activations a fraction of their memory.
    selective: every other block does. none: all is kept. Not for lstm."""

    precision: Precision = Precision.AUTO
    """auto: the fastest on the machine at the same quality; fp32: full precision, by the fastest
    library whose products are as exact; bf16: mixed; fp16: mixed, with a loss scale that follows
    the gradients, for GPUs without bfloat16."""

    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Seed of initial weights, data order and dropout."""

    early_stopping: EarlyStoppingSpec | None = None
    """Ends training when the loss on held-out text no longer improves, and exports the checkpoint
    with the lowest. Absent: all steps are done, and the last weights are exported."""

    divergence: DivergenceSpec = DivergenceSpec()
    """What is done about a loss that runs away."""

    @property
    def global_batch(self) -> int:
        """Sequences of one step, over all ranks and passes."""
        if self.batch_tokens is not None:
            return self.batch_tokens // self.sequence_length
        return self.batch_size or DEFAULT_BATCH_SIZE

    def count_steps(self, num_samples: int | None = None) -> int | None:
        """Return the optimizer steps of the run; None: they follow from the data.

        `num_samples` are the sequences, or documents, of the training split, once it is known.
        """
        if self.steps is not None:
            return self.steps
        if self.tokens is not None:
            return -(-self.tokens // (self.global_batch * self.sequence_length))
        if num_samples is None or self.epochs is None:
            return None
        return self.count_epoch_steps(self.epochs, num_samples)

    def count_epoch_steps(self, epochs: float, num_samples: int) -> int:
        """Return the steps in which so many samples are read `epochs` times."""
        return max(1, math.ceil(epochs * num_samples / self.global_batch))

    def find_learning_rate(self, model: ModelSpec) -> float:
        """Return the peak of the learning rate, as given or as is usual for what is trained."""
        if self.optimizer.learning_rate is not None:
            return self.optimizer.learning_rate
        if self.optimizer.kind is OptimizerKind.ADAFACTOR:
            is_new = model.pretrained is None
            return ADAFACTOR_LEARNING_RATE if is_new else ADAFACTOR_FINE_TUNING_LEARNING_RATE
        if model.pretrained is None:
            return model.suggest_learning_rate()
        return FINE_TUNING_LEARNING_RATE if self.lora is None else LORA_LEARNING_RATE

    def find_logits_bytes(self, *, on_gpu: bool) -> int:
        """Return the most memory that logits may take at a time."""
        default = GPU_LOGITS_MEBIBYTES if on_gpu else CPU_LOGITS_MEBIBYTES
        return (self.logits_mebibytes or default) * 2**20

    @model_validator(mode="after")
    def check_batch_and_parts(self) -> Self:
        """Hold the CEL rules of this model in Python too."""
        if self.batch_size is not None and self.batch_tokens is not None:
            raise ValueError(BATCH_RULE)
        if self.batch_tokens is not None and (
            self.batch_tokens % self.sequence_length or self.batch_tokens < self.sequence_length
        ):
            raise ValueError(BATCH_TOKENS_RULE)
        if self.micro_batch_size is not None and self.auto_micro_batch:
            raise ValueError(MICRO_BATCH_RULE)
        if self.micro_batch_size is not None and self.global_batch % self.micro_batch_size:
            raise ValueError("batchSize must be a multiple of microBatchSize")
        if [self.steps, self.tokens, self.epochs].count(None) != 2:
            raise ValueError(LENGTH_RULE)
        if self.lora is not None and self.freeze is not None:
            raise ValueError(FREEZE_RULE)
        return self
