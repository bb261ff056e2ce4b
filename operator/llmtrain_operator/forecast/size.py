"""How many parameters a model has, and how much arithmetic a token of training costs.

Below: the contract. Above: `memory`, `forecast`. The counts are those of the networks that the
trainer builds; a test holds them to the built ones, so that this needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmtrain_api.network import Architecture, ModelSpec, Network
from llmtrain_api.objective import SpanCorruptionSpec, SpanCounts, count_spans

RELATIVE_BUCKETS = 32
"""Of T5: distances that it tells apart, for each head of the encoder and the decoder."""

FLOPS_PER_PARAMETER = 6.0
"""Two for the forward pass, four for the backward pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """What follows from a network's shape."""

    parameters: int
    """All, tied ones once."""

    layer: int
    """Parameters of one layer; of T5 those of one of the encoder and one of the decoder."""

    embeddings: int
    """Parameters of the embeddings of tokens and positions."""

    largest_block: int
    """Parameters of the largest part that FSDP gathers at once: a block, or the embedding."""

    flops_per_token: float
    """Floating-point operations of the forward and the backward pass, if all is trained."""

    layer_flops: float
    """Of those, of the matrix products of one layer; of T5 as `layer`."""

    output_flops: float
    """Of those, of the product with the output layer."""

    attention_flops: float
    """Of those, of what has no weights."""


def compute_size(
    model: ModelSpec,
    *,
    vocabulary_size: int,
    sequence_length: int,
    corruption: SpanCorruptionSpec | None = None,
) -> ModelSize:
    """Count a network's parameters and its arithmetic for each token of a sequence.

    Arithmetic after Chowdhery et al. 2022 (PaLM, arXiv:2204.02311, appendix B): 6 operations for
    each parameter of a matrix product, and 12·layers·width·length for attention, of which the
    causal half is not taken off. `corruption` is for T5, whose encoder and decoder read sequences
    of other lengths.
    """
    network = model.resolve()
    embedding = vocabulary_size * network.hidden_size  # the output layer is the same matrix
    if network.architecture is Architecture.T5:
        counts = count_spans(sequence_length, corruption or SpanCorruptionSpec())
        return _compute_t5_size(network, embedding, sequence_length, counts)
    matrices, block, rest = _count_parts(network, vocabulary_size, sequence_length)
    products = network.layers * matrices + embedding
    attention = 12.0 * network.layers * network.hidden_size * sequence_length
    if network.architecture is Architecture.LSTM:
        attention = 0.0
    if network.architecture is Architecture.BERT:
        products += network.hidden_size**2
    positions = {Architecture.GPT2: sequence_length, Architecture.BERT: sequence_length + 1}
    return ModelSize(
        parameters=embedding + network.layers * block + rest,
        layer=block,
        embeddings=embedding + positions.get(network.architecture, 0) * network.hidden_size,
        largest_block=max(block, embedding),
        flops_per_token=FLOPS_PER_PARAMETER * products + attention,
        layer_flops=FLOPS_PER_PARAMETER * matrices,
        output_flops=FLOPS_PER_PARAMETER * embedding,
        attention_flops=attention,
    )


def _count_parts(
    network: Network, vocabulary_size: int, sequence_length: int
) -> tuple[int, int, int]:
    """Return the parameters of a layer's matrices, of all of a layer, and outside of layers."""
    width = network.hidden_size
    if network.architecture is Architecture.GPT2:
        matrices = 12 * width * width
        return matrices, matrices + 13 * width, sequence_length * width + 2 * width
    if network.architecture is Architecture.BERT:
        matrices = 12 * width * width
        # Positions, the one kind of segment, two norms; the head's product and its biases.
        rest = (sequence_length + 1 + 2 + 2) * width + width * width + width + vocabulary_size
        return matrices, matrices + 13 * width, rest
    if network.architecture is Architecture.LSTM:
        matrices = 8 * width * width
        return matrices, matrices + 10 * width, 2 * width
    key_value_width = width // network.heads * network.key_value_heads
    matrices = 2 * width * width + 2 * width * key_value_width + 3 * width * network.inner_width
    return matrices, matrices + 2 * width, width


def _compute_t5_size(
    network: Network, embedding: int, sequence_length: int, counts: SpanCounts
) -> ModelSize:
    width, layers = network.hidden_size, network.layers
    attention, feed_forward = 4 * width * width, 3 * width * network.inner_width
    encoder, decoder = attention + feed_forward, 2 * attention + feed_forward
    blocks = layers * (encoder + 2 * width + decoder + 3 * width)
    rest = 2 * width + 2 * RELATIVE_BUCKETS * network.heads
    # Keys and values of what the encoder read are computed for its tokens.
    read = counts.inputs * (encoder + attention // 2)
    written = counts.targets * (decoder - attention // 2)
    pairs = counts.inputs**2 + counts.targets**2 + counts.inputs * counts.targets
    layer_flops = FLOPS_PER_PARAMETER * (read + written) / sequence_length
    output_flops = FLOPS_PER_PARAMETER * counts.targets * embedding / sequence_length
    attention_flops = 12.0 * layers * width * pairs / sequence_length
    return ModelSize(
        parameters=embedding + blocks + rest,
        layer=blocks // layers,
        embeddings=embedding,
        largest_block=max(decoder + 3 * width, embedding),
        flops_per_token=layers * layer_flops + output_flops + attention_flops,
        layer_flops=layer_flops,
        output_flops=output_flops,
        attention_flops=attention_flops,
    )
