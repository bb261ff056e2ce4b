"""What a forward pass keeps for the backward pass, in bytes, by architecture.

Below: the contract. Above: `memory`. The counts were read off autograd's saved tensors of each
network, with and without dropout, in fp32 and bfloat16; a test holds them to these.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llmtrain_api.network import Architecture, Network
from llmtrain_api.objective import SpanCounts
from llmtrain_api.training import ActivationCheckpointing

FP32_BYTES, BF16_BYTES = 4, 2

LSTM_WORKSPACE_BYTES = 62
"""Of oneDNN's LSTM for each token and unit of width, at widths from 64 on (60 to 66 there)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankWork:
    """What one rank works on at a time."""

    sequences: int
    """Of a micro-batch."""

    sequence_length: int
    vocabulary_size: int
    shards: int
    """Ranks, or groups of ranks, that the parameters are divided over; 1: each has them all."""

    bf16: bool
    """Products in bfloat16, or float16; weights, gradients and optimizer state stay fp32."""

    fused_attention: bool
    """Attention with dropout keeps no scores: so on GPUs. Without dropout it never does, but for
    T5's, whose scores have learned biases."""

    recomputed: ActivationCheckpointing = ActivationCheckpointing.NONE
    """Which blocks keep their inputs alone."""

    logits_bytes: int
    """Most that logits take at a time, `TrainingSpec.find_logits_bytes`."""

    tensor_parallel: int = 1
    """Ranks of a group that divide the matrices of each block among them."""

    @property
    def product_bytes(self) -> int:
        """Bytes of a number that enters or leaves a product of matrices."""
        return BF16_BYTES if self.bf16 else FP32_BYTES


def count_activation_bytes(network: Network, work: RankWork, counts: SpanCounts) -> int:
    """Return what a micro-batch keeps; `counts` are those of T5's sequences."""
    if network.architecture is Architecture.T5:
        return work.sequences * _count_t5_bytes(network, work, counts)
    tokens = work.sequences * work.sequence_length
    if network.architecture is Architecture.LSTM:
        return tokens * _count_lstm_bytes(network, work)
    if network.architecture is Architecture.BERT:
        return tokens * _count_bert_bytes(network, work)
    block, last = _count_block_bytes(network, work), _count_last_norm_bytes(network, work)
    return tokens * (network.layers * block + last)


def count_recomputed_layers(network: Network, work: RankWork) -> int:
    """Return the layers whose activations are computed again; of T5 in each of its two halves."""
    if work.recomputed is ActivationCheckpointing.NONE:
        return 0
    is_full = work.recomputed is ActivationCheckpointing.FULL
    return network.layers if is_full else -(-network.layers // 2)


def count_layer_bytes(network: Network, work: RankWork, counts: SpanCounts) -> tuple[int, int]:
    """Return what one layer keeps of a micro-batch, and how large its input is."""
    one, two = (
        count_activation_bytes(replace(network, layers=layers), work, counts) for layers in (1, 2)
    )
    is_t5 = network.architecture is Architecture.T5
    tokens = counts.inputs + counts.targets if is_t5 else work.sequence_length
    return two - one, work.sequences * tokens * network.hidden_size * FP32_BYTES


def count_shared_bytes(network: Network, counts: SpanCounts) -> int:
    """Return what layers that are computed again have as an input in common: T5's biases."""
    if network.architecture is not Architecture.T5:
        return 0
    read, written = counts.inputs, counts.targets
    return FP32_BYTES * network.heads * (read**2 + written**2 + written * read)


def _count_block_bytes(network: Network, work: RankWork) -> int:
    """Return the bytes that a block of GPT-2 or Llama keeps for each token.

    The residual stream and the norms' inputs stay fp32; what enters or leaves a product has the
    products' type.
    """
    width, inner = network.hidden_size, network.inner_width
    key_value_width = width // network.heads * network.key_value_heads
    if network.architecture is Architecture.GPT2:
        stream, inputs, wide, statistics = 2, 3, 2, 4
    else:
        # In bfloat16 each of q, k, v, gate and up has a converted input of its own.
        stream, inputs, wide, statistics = 4, 6 if work.bf16 else 3, 4, 2
    # What a tensor group divides: queries, keys, values, what attention gives, the inner width.
    divided = 2 * width + 2 * key_value_width + wide * inner
    products = (inputs - 1) * width + divided // work.tensor_parallel
    heads = network.heads // work.tensor_parallel
    # One number a head: of what the softmax was divided by.
    fp32 = stream * width + statistics + heads
    if network.dropout > 0 and not work.fused_attention:
        # Masks of both residual branches, and the scores of every pair of tokens.
        masks = 2 * width if network.architecture is Architecture.GPT2 else 0
        fp32 += masks + 3 * heads * work.sequence_length
    return fp32 * FP32_BYTES + products * work.product_bytes


def _count_last_norm_bytes(network: Network, work: RankWork) -> int:
    """Return the bytes for each token outside of blocks: of the norm before the logits.

    It keeps its input and its output; Llama's the input once more, and GPT-2 has a mask on its
    embeddings.
    """
    has_one = network.architecture is Architecture.GPT2 and network.dropout == 0
    states = 1 if has_one else 2
    return network.hidden_size * (states * FP32_BYTES + work.product_bytes)


def _count_bert_bytes(network: Network, work: RankWork) -> int:
    """Return the bytes that BERT keeps for each token.

    In bfloat16 each of q, k and v has a converted input of its own. With dropout attention computes
    in fp32 on CPUs.
    """
    width, heads = network.hidden_size, network.heads
    products = (5 if work.bf16 else 3) * width + 2 * network.inner_width
    fp32 = 2 * width + 4
    rest = width * (FP32_BYTES + 4 * work.product_bytes) + 4 * FP32_BYTES
    if network.dropout > 0:
        products += 2 * width  # masks of both residual branches
        rest += width * FP32_BYTES
    if network.dropout > 0 and not work.fused_attention:
        fp32 += 3 * width + 3 * heads * work.sequence_length
    else:
        products += 3 * width
        fp32 += heads
    return network.layers * (fp32 * FP32_BYTES + products * work.product_bytes) + rest


def _count_lstm_bytes(network: Network, work: RankWork) -> int:
    """Return the bytes that an LSTM keeps for each token; on CPUs it computes in fp32."""
    width = network.hidden_size
    masks = 1 if network.dropout > 0 else 0
    block = LSTM_WORKSPACE_BYTES * width + ((3 + masks) * width + 2) * FP32_BYTES
    rest = ((1 + masks) * width + 2) * FP32_BYTES + width * work.product_bytes
    return network.layers * block + rest


def _count_t5_bytes(network: Network, work: RankWork, counts: SpanCounts) -> int:
    """Return the bytes that T5 keeps for each sequence.

    Attention within the encoder and within the decoder keeps scores, and computes in fp32; with
    dropout so does the decoder's attention to the encoder.
    """
    width, inner, heads = network.hidden_size, network.inner_width, network.heads
    read, written = counts.inputs, counts.targets
    has_dropout = network.dropout > 0
    scores = 3 if has_dropout and not work.fused_attention else 1
    wide = (5 if has_dropout else 4) * inner
    # The encoder: two norms, q, k and v; products' inputs, and masks of both branches.
    fp32 = read * (7 * width + scores * heads * read + 2)
    products = read * (wide + (6 if work.bf16 else 3) * width)
    # The decoder: three norms, and q, k and v of its own attention.
    fp32 += written * (9 * width + scores * heads * written + 3)
    products += written * (wide + (8 if work.bf16 else 5) * width)
    across = written * width + 2 * read * width
    if has_dropout:
        products += 2 * read * width + 3 * written * width
    if has_dropout and not work.fused_attention:
        fp32 += across + 3 * heads * written * read
    else:
        products += across
        fp32 += written * heads
    if work.bf16:
        products += 2 * read * width  # what the encoder wrote, converted for k and for v
    layers = network.layers * (fp32 * FP32_BYTES + products * work.product_bytes)
    norms = (4 if has_dropout else 2) * width * (read + written) * FP32_BYTES
    return layers + norms + (written if work.bf16 else read + written) * width * work.product_bytes
