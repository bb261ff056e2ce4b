"""Models from a size, and the loss they are trained on."""

from __future__ import annotations

import pytest
import torch

from llmtrain_api.training import Architecture, ModelSpec
from llmtrain_trainer.model import (
    CausalModel,
    build_model,
    compute_token_losses,
    count_parameters,
)


def build(architecture: Architecture, seed: int = 0) -> CausalModel:
    spec = ModelSpec(architecture=architecture, layers=2, heads=2, hidden_size=16)
    return build_model(spec, vocabulary_size=50, sequence_length=12, end_of_text=49, seed=seed)


@pytest.mark.parametrize("architecture", list(Architecture))
def test_weights_follow_from_the_seed(architecture: Architecture) -> None:
    first, same, other = (
        torch.nn.utils.parameters_to_vector(build(architecture, seed).parameters())
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_tied_parameters_count_once() -> None:
    embeddings = 50 * 16 + 12 * 16
    block = 2 * 2 * 16 + (16 * 48 + 48) + (16 * 16 + 16) + (16 * 64 + 64) + (64 * 16 + 16)
    assert count_parameters(build(Architecture.GPT2)) == embeddings + 2 * block + 2 * 16


@pytest.mark.parametrize("architecture", list(Architecture))
def test_token_losses_are_of_the_next_token(architecture: Architecture) -> None:
    model = build(architecture).train(mode=False)
    sequences = torch.randint(50, (3, 13), generator=torch.Generator().manual_seed(0))
    losses = compute_token_losses(model, sequences)
    logits = model(input_ids=sequences[:, :-1]).logits.log_softmax(dim=-1)
    expected = -logits.gather(2, sequences[:, 1:, None]).squeeze(2)
    assert losses.shape == (3, 12)
    torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize("architecture", list(Architecture))
def test_a_token_does_not_see_what_follows(architecture: Architecture) -> None:
    model = build(architecture).train(mode=False)
    sequences = torch.zeros(2, 13, dtype=torch.int64)
    sequences[1, 8] = 7
    first, changed = compute_token_losses(model, sequences)
    assert torch.equal(first[:7], changed[:7])
    assert not torch.equal(first[7:], changed[7:])
