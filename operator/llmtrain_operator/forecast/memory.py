"""How much memory a rank needs for its part of a training run.

Below: `size`, `activations`, `trained`. Above: `forecast`. What the process, its libraries and the
allocator take beside that is not counted here.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmtrain_api.network import Architecture, ModelSpec, Network
from llmtrain_api.objective import MaskingSpec, SpanCorruptionSpec, count_spans
from llmtrain_operator.forecast.activations import (
    BF16_BYTES,
    FP32_BYTES,
    RankWork,
    count_activation_bytes,
    count_layer_bytes,
    count_recomputed_layers,
    count_shared_bytes,
)
from llmtrain_operator.forecast.size import ModelSize
from llmtrain_operator.forecast.trained import list_linear_layers

LOSS_COPIES = 3
"""fp32 tensors of the logits' shape at the peak: log-probabilities and two gradients."""

CHUNK_COPIES = 2
"""The same for the logits of a chunk, whose gradients are computed in their place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMemory:
    """Bytes of one rank."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """What the forward pass of one micro-batch keeps for the backward pass."""

    recomputed: int
    """Activations of the block that the backward pass computes again."""

    logits: int
    """Around the loss of one micro-batch."""

    gathered: int
    """FSDP: parameters of the blocks that are whole at a time."""

    @property
    def peak(self) -> int:
        """The most that is needed at once.

        Where gradients are not kept from one pass to the next, they grow as activations go.
        Blocks are computed again when the logits are gone.
        """
        lasting = self.weights + self.optimizer + self.gathered
        return lasting + self.gradients + self.activations + max(self.logits, self.recomputed)


def compute_rank_memory(
    model: ModelSpec,
    size: ModelSize,
    work: RankWork,
    corruption: SpanCorruptionSpec | None = None,
    masking: MaskingSpec | None = None,
    *,
    trained: int | None = None,
    optimizer_numbers: int | None = None,
) -> RankMemory:
    """Return what one rank needs.

    Args:
        model: the network, by its shape.
        size: its counts.
        work: what the rank works on.
        corruption: for T5.
        masking: for BERT.
        trained: parameters that have gradients and optimizer state, where not all have.
            Activations are counted as if all had, which adapters come near to.
        optimizer_numbers: of the optimizer's state; absent: AdamW's, two for each weight.
    """
    network = model.resolve()
    counts = count_spans(work.sequence_length, corruption or SpanCorruptionSpec())
    is_t5 = network.architecture is Architecture.T5
    targets = work.sequences * (counts.targets if is_t5 else work.sequence_length)
    held = _count_held(network, size, work.tensor_parallel)

    def divide(numbers: int) -> int:
        """Return a rank's share of what all parameters have together."""
        return -(-numbers * held // (size.parameters * work.shards))

    share = divide(size.parameters)
    trained_share = share if trained is None else divide(trained)
    state_share = 2 * trained_share if optimizer_numbers is None else divide(optimizer_numbers)
    layer, layer_input = count_layer_bytes(network, work, counts)
    dropped = count_recomputed_layers(network, work)
    activations = count_activation_bytes(network, work, counts) - dropped * (layer - layer_input)
    recomputed = 0
    if dropped:
        activations += count_shared_bytes(network, counts)
        recomputed = layer
    is_bert = network.architecture is Architecture.BERT
    if is_bert:
        targets = round(targets * (masking or MaskingSpec()).share)
    layer_numbers = size.layer // work.tensor_parallel
    gathered = 0
    if work.shards > 1:
        # The block at work and the one that is fetched ahead.
        is_divided = work.tensor_parallel > 1
        largest = max(layer_numbers, size.embeddings) if is_divided else size.largest_block
        gathered = 2 * work.product_bytes * largest
    elif work.bf16:
        # Autocast keeps its copy of each matrix until the step ends; an LSTM's own stay fp32.
        is_lstm = network.architecture is Architecture.LSTM
        embedding = work.vocabulary_size * network.hidden_size
        activations += BF16_BYTES * (embedding if is_lstm else held)
        activations -= BF16_BYTES * dropped * layer_numbers
        recomputed += BF16_BYTES * layer_numbers if dropped else 0
    return RankMemory(
        weights=FP32_BYTES * share,
        gradients=FP32_BYTES * trained_share,
        optimizer=FP32_BYTES * state_share,
        activations=activations,
        recomputed=recomputed,
        logits=_count_logits_bytes(work, targets, width=network.hidden_size, is_partial=is_bert),
        gathered=gathered,
    )


def _count_held(network: Network, size: ModelSize, tensor_parallel: int) -> int:
    """Return the parameters that a rank of a group has: its part of matrices, the rest whole."""
    if tensor_parallel == 1:
        return size.parameters
    matrices = sum(
        layer.count * layer.inputs * layer.outputs for layer in list_linear_layers(network)
    )
    return size.parameters - matrices + matrices // tensor_parallel


def _count_logits_bytes(work: RankWork, targets: int, *, width: int, is_partial: bool) -> int:
    """Return what the loss takes, all at once or in chunks, as `llmtrain_trainer.model.losses`."""
    of_target = FP32_BYTES * work.vocabulary_size
    converted = BF16_BYTES * work.vocabulary_size if work.bf16 else 0
    if targets * of_target <= work.logits_bytes and not is_partial:
        return targets * (LOSS_COPIES * of_target + converted)
    rows = min(targets, max(1, work.logits_bytes // of_target))
    # The gradients of the states are there before the backward pass; chosen states are copied.
    states = (2 if is_partial else 1) * targets * width * FP32_BYTES
    return rows * (CHUNK_COPIES * of_target + converted) + states
