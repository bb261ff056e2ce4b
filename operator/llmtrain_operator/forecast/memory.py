"""How much memory a rank needs for its part of a training run.

Below: `size`. Above: `forecast`. What the forward pass keeps for the backward pass was read off
autograd's saved tensors for both architectures, and a test holds these counts to them; what
the process, its libraries and the allocator take beside that is not counted here.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmtrain_api.training import Architecture, ModelSpec
from llmtrain_operator.forecast.size import ModelSize, find_inner_width

FP32_BYTES, BF16_BYTES = 4, 2
MOMENTS = 2
"""AdamW keeps a mean and a squared mean of each gradient."""

LOSS_COPIES = 3
"""fp32 tensors of the logits' shape at the peak: log-probabilities and two gradients."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMemory:
    """Bytes of one rank."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """What the forward pass of one micro-batch keeps for the backward pass."""

    logits: int
    """Around the loss of one micro-batch."""

    gathered: int
    """FSDP: parameters of the blocks that are whole at a time."""

    @property
    def peak(self) -> int:
        """The most that is needed at once.

        Where gradients are not kept from one pass to the next, they grow as activations go.
        """
        lasting = self.weights + self.optimizer + self.gathered
        return lasting + self.gradients + self.activations + self.logits


@dataclass(frozen=True, slots=True, kw_only=True)
class RankWork:
    """What one rank works on at a time."""

    sequences: int
    """Of a micro-batch."""

    sequence_length: int
    vocabulary_size: int
    shards: int
    """Ranks that the parameters are divided over; 1: each rank has them all."""

    bf16: bool
    """Products in bfloat16; weights, gradients and optimizer state stay fp32."""

    fused_attention: bool
    """Attention with dropout keeps no scores: so on GPUs. Without dropout it never does."""

    @property
    def product_bytes(self) -> int:
        """Bytes of a number that enters or leaves a product of matrices."""
        return BF16_BYTES if self.bf16 else FP32_BYTES


def compute_rank_memory(model: ModelSpec, size: ModelSize, work: RankWork) -> RankMemory:
    """Return what one rank needs."""
    tokens = work.sequences * work.sequence_length
    share = -(-size.parameters // work.shards)
    kept = model.layers * _count_block_bytes(model, work) + _count_last_norm_bytes(model, work)
    activations = tokens * kept
    logits = LOSS_COPIES * FP32_BYTES * tokens * work.vocabulary_size
    gathered = 0
    if work.bf16:
        logits += BF16_BYTES * tokens * work.vocabulary_size
    if work.shards > 1:
        # The block at work and the one that is fetched ahead.
        gathered = 2 * work.product_bytes * size.largest_block
    elif work.bf16:
        # Autocast keeps its copy of each matrix until the step ends.
        activations += BF16_BYTES * size.parameters
    return RankMemory(
        weights=FP32_BYTES * share,
        gradients=FP32_BYTES * share,
        optimizer=MOMENTS * FP32_BYTES * share,
        activations=activations,
        logits=logits,
        gathered=gathered,
    )


def _count_block_bytes(model: ModelSpec, work: RankWork) -> int:
    """Return the bytes that a block keeps for each token.

    The residual stream and the norms' inputs stay fp32; what enters or leaves a product has the
    products' type.
    """
    width, inner = model.hidden_size, find_inner_width(model)
    key_value_width = width // model.heads * (model.key_value_heads or model.heads)
    if model.architecture is Architecture.GPT2:
        stream, inputs, wide, statistics = 2, 3, 2, 4
    else:
        # In bfloat16 each of q, k, v, gate and up has a converted input of its own.
        stream, inputs, wide, statistics = 4, 6 if work.bf16 else 3, 4, 2
    products = (inputs + 1) * width + 2 * key_value_width + wide * inner
    # One number a head: of what the softmax was divided by.
    fp32 = stream * width + statistics + model.heads
    if model.dropout > 0 and not work.fused_attention:
        # Masks of both residual branches, and the scores of every pair of tokens.
        masks = 2 * width if model.architecture is Architecture.GPT2 else 0
        fp32 += masks + 3 * model.heads * work.sequence_length
    return fp32 * FP32_BYTES + products * work.product_bytes


def _count_last_norm_bytes(model: ModelSpec, work: RankWork) -> int:
    """Return the bytes for each token of the norm before the logits: its input and its output."""
    return 2 * model.hidden_size * FP32_BYTES + model.hidden_size * work.product_bytes
