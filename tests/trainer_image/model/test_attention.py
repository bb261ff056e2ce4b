"""Attention in blocks, held against the formula in bfloat16 and in double precision."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llmtrain_api.network import Architecture, ModelSpec
from llmtrain_trainer.model.attention import BLOCK_ROWS, choose_attention, compute_attention
from llmtrain_trainer.model.network import build_model, call_model
from llmtrain_trainer.objective.batch import Batch

WIDTH = 16
LONG = 2 * BLOCK_ROWS + 40
"""Two whole blocks of rows, and a part of one."""


def attend_plainly(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Return attention by its formula [n, t, heads, width]."""
    scores = (query @ key.transpose(2, 3) * scaling).masked_fill(~seen, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("length", [7, BLOCK_ROWS, LONG])
@pytest.mark.parametrize(
    ("sees", "heads", "shared"),
    [
        ("the past", 2, 1),
        ("the past", 4, 2),
        ("all", 2, 1),
        ("its document", 2, 1),
        ("its document", 4, 2),
    ],
)
def test_values_and_gradients_are_as_exact_as_the_formula_in_bfloat16(
    length: int, sees: str, heads: int, shared: int
) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> torch.Tensor:
        return torch.randn(3, count, length, WIDTH, generator=generator).bfloat16()

    exact = [draw(heads), draw(heads // shared), draw(heads // shared)]
    incoming = draw(heads).transpose(1, 2)
    mask, causal = None, sees == "the past"
    seen = torch.ones(length, length, dtype=torch.bool)
    if causal:
        seen = seen.tril()
    elif sees == "its document":
        documents = torch.randint(2, (3, length), generator=generator).sort().values
        mask = (documents[:, None, :, None] == documents[:, None, None, :]).tril()
        seen = mask
    layer: Any = SimpleNamespace(num_key_value_groups=shared, is_causal=causal)
    scaling = 0.3

    def run(how: str) -> list[torch.Tensor]:
        dtype = torch.float64 if how == "exact" else torch.bfloat16
        inputs = [tensor.to(dtype).requires_grad_() for tensor in exact]
        query, key, value = inputs
        if how == "blocks":
            attended, _ = compute_attention(layer, query, key, value, mask, scaling=scaling)
        else:
            key, value = (tensor.repeat_interleave(shared, dim=1) for tensor in (key, value))
            attended = attend_plainly(query, key, value, seen, scaling)
        gradients = torch.autograd.grad(attended, inputs, incoming.to(dtype))
        return [attended.detach(), *gradients]

    for ours, theirs, right in zip(run("blocks"), run("formula"), run("exact"), strict=True):
        error, usual = ((each.double() - right).norm() for each in (ours, theirs))
        assert error <= 1.2 * usual


def build(architecture: Architecture, length: int) -> Any:
    spec = ModelSpec(architecture=architecture, layers=2, heads=2, hidden_size=32)
    model = build_model(
        spec, vocabulary_size=50, sequence_length=length, end_of_text=0, padding=1, seed=0
    )
    choose_attention(model, torch.bfloat16, torch.device("cpu"))
    return model


@pytest.mark.parametrize(
    "architecture", [Architecture.GPT2, Architecture.LLAMA, Architecture.BERT, Architecture.T5]
)
def test_a_model_says_the_same_and_is_saved_as_before(architecture: Architecture) -> None:
    model = build(architecture, LONG)
    ids = torch.randint(2, 50, (2, LONG), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids} | ({"labels": ids} if architecture is Architecture.T5 else {})
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(**inputs).logits
        model.set_attn_implementation("sdpa")
        usual = model(**inputs).logits
    torch.testing.assert_close(logits, usual, rtol=0.02, atol=0.02)
    assert "llmtrain" not in model.config.to_json_string()


@pytest.mark.parametrize("architecture", [Architecture.GPT2, Architecture.LLAMA])
def test_documents_of_a_row_do_not_see_each_other(architecture: Architecture) -> None:
    model = build(architecture, LONG)
    first = 150
    ids = torch.randint(2, 50, (1, LONG), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[:, :first] = 2
    documents = (torch.arange(LONG) >= first).long()[None]

    def say(tokens: torch.Tensor) -> torch.Tensor:
        inputs = {"input_ids": tokens}
        with torch.autocast("cpu", torch.bfloat16):
            return call_model(model, Batch(inputs=inputs, targets=tokens, documents=documents))

    assert torch.equal(say(ids)[:, first:], say(changed)[:, first:])
    assert not torch.equal(say(ids)[:, :first], say(changed)[:, :first])


def test_dropped_weights_are_left_to_torch() -> None:
    layer: Any = SimpleNamespace(is_causal=True, training=True)
    query = torch.randn(1, 1, 40, WIDTH).bfloat16()
    torch.manual_seed(0)
    attended, _ = compute_attention(layer, query, query, query, None, dropout=0.9)
    torch.manual_seed(1)
    otherwise, _ = compute_attention(layer, query, query, query, None, dropout=0.9)
    assert not torch.equal(attended, otherwise)
