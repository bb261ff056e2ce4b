"""How many parameters a model has, and how much arithmetic a token of training costs.

Below: the contract. Above: `memory`, `forecast`. The counts are those of the networks that the
trainer builds; a test holds them to the built ones, so that this needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmtrain_api.training import Architecture, ModelSpec

LLAMA_WIDTH_MULTIPLE = 32
"""The trainer rounds the inner width of SwiGLU up to a multiple of this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """What follows from a network's shape."""

    parameters: int
    """Trainable, tied ones once."""

    largest_block: int
    """Parameters of the largest part that FSDP gathers at once: a block, or the embedding."""

    flops_per_token: float
    """Floating-point operations of the forward and the backward pass."""


def compute_size(model: ModelSpec, *, vocabulary_size: int, sequence_length: int) -> ModelSize:
    """Count a network's parameters and its arithmetic.

    Arithmetic after Chowdhery et al. 2022 (PaLM, arXiv:2204.02311, appendix B): 6 operations for
    each parameter of a matrix product, and 12·layers·width·length for attention, of which the
    causal half is not taken off.
    """
    width = model.hidden_size
    embedding = vocabulary_size * width  # the output layer is the same matrix
    if model.architecture is Architecture.GPT2:
        matrices = 12 * width * width
        block = matrices + 13 * width
        rest = sequence_length * width + 2 * width
    else:
        inner = find_inner_width(model)
        key_value_width = width // model.heads * (model.key_value_heads or model.heads)
        matrices = 2 * width * width + 2 * width * key_value_width + 3 * width * inner
        block = matrices + 2 * width
        rest = width
    products = model.layers * matrices + embedding
    return ModelSize(
        parameters=embedding + model.layers * block + rest,
        largest_block=max(block, embedding),
        flops_per_token=6.0 * products + 12.0 * model.layers * width * sequence_length,
    )


def find_inner_width(model: ModelSpec) -> int:
    """Return the width between the matrices of a block's feed-forward part."""
    if model.architecture is Architecture.GPT2:
        return 4 * model.hidden_size
    eight_thirds = -(-8 * model.hidden_size // 3)
    return -(-eight_thirds // LLAMA_WIDTH_MULTIPLE) * LLAMA_WIDTH_MULTIPLE
