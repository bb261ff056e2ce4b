"""Attention in bfloat16 on CPUs, as products that are done a block of rows at a time.

Below: torch's batched products, which oneDNN computes. Above: `opening` and `trial` choose it for
a model that is trained in bfloat16 on a CPU; transformers calls it by its name.

torch's fused kernel for CPUs reaches a fraction of what the CPU multiplies in bfloat16
(docs/log.md has the figures), as its blocks of 32 rows are too small for oneDNN. Here a block has
128 rows by all keys that they see, so nothing above the diagonal but a block's own corner is
computed. The weights are computed again for the gradients instead of being kept, as in
FlashAttention-2 (Dao, 2023), so memory is as with the fused kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import PreTrainedModel

ATTENTION = "llmtrain_blocks"
"""By which transformers knows it."""

BLOCK_ROWS = 128
"""Queries of a block."""

MAX_BLOCK_SCORES = 1 << 21
"""As many sequences are done at once as keep to this (4 MiB of bfloat16: a share of the cache)."""


def choose_attention(model: PreTrainedModel, products: torch.dtype, device: torch.device) -> None:
    """Let a model whose products are in bfloat16 on a CPU compute its attention in blocks."""
    uses_kernel = model.config._attn_implementation == "sdpa"  # what it is has no public name
    if uses_kernel and products is torch.bfloat16 and device.type == "cpu":
        model.set_attn_implementation(ATTENTION)


def compute_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Return softmax(query keyᵀ · scaling + mask) value, by transformers' contract.

    Args:
        module: the layer; says whether a token sees those after it, and of shared heads.
        query: [n, heads, t, width].
        key: alike, with fewer heads where they are shared.
        value: as the key.
        attention_mask: bool [n or 1, 1, t, t], true where a token is seen; None: by `is_causal`.
        dropout: share of the weights that are dropped; with any, torch's kernel does it all.
        scaling: of the scores; None: by the root of the width.
        is_causal: whether a token sees none after it; None: as the layer says.
        rest: what else torch's kernel is given; with a bias or a cache it does it all.

    Returns:
        [n, t, heads, width], and no weights.
    """
    is_plain = dropout == 0.0 and rest.get("position_bias") is None and query.device.type == "cpu"
    is_square = query.shape[2] == key.shape[2] and query.shape[-1] == value.shape[-1]
    is_masked_plainly = attention_mask is None or attention_mask.dtype == torch.bool
    is_narrow = torch.bfloat16 in (query.dtype, _find_autocast_dtype())
    if not (is_plain and is_square and is_masked_plainly and is_narrow):
        attended, _ = sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            **rest,
        )
        return attended, None
    sharing = getattr(module, "num_key_value_groups", 1)
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    # Rotary positions, for one, leave float32 to be converted; from here on all is bfloat16.
    query, key, value = (tensor.to(torch.bfloat16) for tensor in (query, key, value))
    with torch.autocast("cpu", enabled=False):
        attended = _BlockAttention.apply(
            query,
            repeat_kv(key, sharing),
            repeat_kv(value, sharing),
            attention_mask,
            causal and attention_mask is None,
            query.shape[-1] ** -0.5 if scaling is None else scaling,
        )
    return attended.transpose(1, 2).contiguous(), None


def _find_autocast_dtype() -> torch.dtype | None:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


AttentionInterface.register(ATTENTION, compute_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class _BlockAttention(torch.autograd.Function):
    """Attention whose gradients compute the weights anew; see the module."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        causal: bool,
        scaling: float,
    ) -> torch.Tensor:
        query = query * scaling
        key, value = key.contiguous(), value.contiguous()
        attended = torch.empty_like(value)
        for some, rows, keys in _iterate_blocks(query.shape, causal=causal):
            weights = _compute_weights(query, key, mask, some, rows, keys, causal=causal)
            attended[some, :, rows] = weights @ value[some, :, keys]
        ctx.save_for_backward(query, key, value, mask)
        ctx.causal, ctx.scaling = causal, scaling
        return attended

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        # Blocks add up to what a key gets: in fp32, as torch's kernel does.
        adds_up = query.shape[2] > BLOCK_ROWS
        dtype = torch.float32 if adds_up else query.dtype
        to_query, to_key, to_value = (
            torch.empty_like(query),
            torch.zeros_like(key, dtype=dtype),
            torch.zeros_like(value, dtype=dtype),
        )
        for some, rows, keys in _iterate_blocks(query.shape, causal=ctx.causal):
            weights = _compute_weights(query, key, mask, some, rows, keys, causal=ctx.causal)
            incoming = gradient[some, :, rows]
            to_value[some, :, keys] += weights.transpose(2, 3) @ incoming
            to_weights = incoming @ value[some, :, keys].transpose(2, 3)
            to_scores = torch.ops.aten._softmax_backward_data(
                to_weights, weights, -1, weights.dtype
            )
            to_query[some, :, rows] = to_scores @ key[some, :, keys]
            to_key[some, :, keys] += to_scores.transpose(2, 3) @ query[some, :, rows]
        to_query *= ctx.scaling
        return to_query, to_key.to(key.dtype), to_value.to(value.dtype), None, None, None


def _iterate_blocks(shape: torch.Size, *, causal: bool) -> Iterator[tuple[slice, slice, slice]]:
    """Yield which sequences, which rows of them, and which keys those see."""
    n, heads, length, _ = shape
    together = max(1, MAX_BLOCK_SCORES // (heads * length * min(BLOCK_ROWS, length)))
    for first in range(0, n, together):
        for start in range(0, length, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, length)
            seen = slice(0, stop if causal else length)
            yield slice(first, first + together), slice(start, stop), seen


def _compute_weights(
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    some: slice,
    rows: slice,
    keys: slice,
    *,
    causal: bool,
) -> torch.Tensor:
    """Return how much of each key a block's rows take [sequences, heads, rows, keys]."""
    scores = query[some, :, rows] @ key[some, :, keys].transpose(2, 3)
    lowest = torch.finfo(scores.dtype).min  # and not -inf: a row that sees none has no NaN
    if mask is not None:
        seen = mask[some if mask.shape[0] > 1 else slice(None), :, rows, keys]
        scores += torch.zeros_like(seen, dtype=scores.dtype).masked_fill_(~seen, lowest)
    elif causal:
        above = 1 + rows.start  # of the corner, where a row's own key is the last that it sees
        count = rows.stop - rows.start
        scores += torch.full((count, keys.stop), lowest, dtype=scores.dtype).triu_(above)
    return torch.softmax(scores, -1)
