"""Which tokens follow a batch of prompts, without working for those that have ended.

Below: `generate` of the exported model. Above: `generating`, which makes the batches.

A batch goes on for some tokens at a time, each time with the keys and values of the time before.
In between, those that have ended leave it: the others do not pay for them, and a text that was to
stop an answer does so. Prompts stand at the right; what fills them up at the left is hidden by the
attention mask, so that nobody's answer depends on who else is in the batch, except by rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

PIECE_TOKENS = 16
"""Tokens between two looks at who has ended. Each look costs about as much as one token of a small
model, and whoever has ended just after one is carried on to the next."""


def decode(
    model: Any,  # `generate` has no type that the library's own models satisfy
    prompts: Sequence[Sequence[int]],
    *,
    end_of_text: int,
    max_new_tokens: int,
    temperature: float = 0.0,
    has_ended: Callable[[list[int]], bool] | None = None,
) -> list[list[int]]:
    """Return the tokens that follow each prompt, without the end.

    Args:
        model: a causal one, on its own device.
        prompts: token ids of each, one at least.
        end_of_text: the token that ends an answer, and pads.
        max_new_tokens: at most so many after each.
        temperature: 0.0 takes the most probable tokens; else they are drawn.
        has_ended: whether what was written so far is enough, asked every `PIECE_TOKENS` tokens;
            None: the end alone says so.
    """
    device = model.device
    width = max(map(len, prompts))
    ids = torch.tensor([[end_of_text] * (width - len(row)) + list(row) for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    ids, mask, cache = ids.to(device), mask.to(device), None
    written: list[list[int]] = [[] for _ in prompts]
    going = list(range(len(prompts)))
    """Which prompt each row of the batch follows."""
    left = max_new_tokens
    while True:
        may_end_early = len(going) > 1 or has_ended is not None
        output = model.generate(
            ids,
            attention_mask=mask,
            past_key_values=cache,
            max_new_tokens=min(PIECE_TOKENS, left) if may_end_early else left,
            do_sample=temperature > 0.0,
            temperature=temperature or None,
            eos_token_id=end_of_text,
            pad_token_id=end_of_text,
            return_dict_in_generate=True,
        )
        piece = output.sequences[:, ids.shape[1] :]
        left -= piece.shape[1]
        kept = []
        for row, (number, tokens) in enumerate(zip(going, piece.tolist(), strict=True)):
            if end_of_text in tokens:
                written[number] += tokens[: tokens.index(end_of_text)]
                continue
            written[number] += tokens
            if has_ended is None or not has_ended(written[number]):
                kept.append(row)
        if left == 0 or not kept:
            return written
        mask = torch.cat([mask, torch.ones_like(piece)], dim=1)
        ids, cache = output.sequences, output.past_key_values
        if len(kept) < len(going):
            chosen = torch.tensor(kept, device=device)
            ids, mask = ids[chosen], mask[chosen]
            if cache is not None:
                cache.reorder_cache(chosen)
            going = [going[row] for row in kept]
