"""Models from a size, and the loss they are trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM
from transformers.modeling_utils import PreTrainedModel

from llmtrain_api.network import Architecture, ModelSpec
from llmtrain_api.objective import OBJECTIVES, Objective
from llmtrain_api.training import TrainingSpec
from llmtrain_trainer.model.network import (
    build_model,
    compute_logits,
    compute_token_losses,
    count_parameters,
)
from llmtrain_trainer.objective.batch import NOT_A_TARGET, Batch, predict_next
from llmtrain_trainer.objective.choosing import make_objective
from llmtrain_trainer.tokenizer.special_tokens import SENTINELS, SpecialTokens

VOCABULARY, END_OF_TEXT, LENGTH = 200, 199, 12
SPECIAL = SpecialTokens(mask=198, padding=197, sentinels=list(range(90, 90 + len(SENTINELS))))
CAUSAL = [a for a in Architecture if OBJECTIVES[a] is Objective.CAUSAL]
AUTO_CLASSES: dict[Objective, Any] = {
    Objective.CAUSAL: AutoModelForCausalLM,
    Objective.MASKED: AutoModelForMaskedLM,
    Objective.SPAN_CORRUPTION: AutoModelForSeq2SeqLM,
}


def build(architecture: Architecture, seed: int = 0) -> PreTrainedModel:
    heads = None if architecture is Architecture.LSTM else 2
    spec = ModelSpec(architecture=architecture, layers=2, heads=heads, hidden_size=16)
    return build_model(
        spec,
        vocabulary_size=VOCABULARY,
        sequence_length=LENGTH,
        end_of_text=END_OF_TEXT,
        padding=SPECIAL.padding,
        seed=seed,
    )


def make_batch(architecture: Architecture) -> Batch:
    objective = make_objective(
        OBJECTIVES[architecture],
        TrainingSpec(steps=1, sequence_length=LENGTH),
        special=SPECIAL,
        vocabulary_size=VOCABULARY,
        end_of_text=END_OF_TEXT,
    )
    assert objective is not None
    sequences = np.random.default_rng(0).integers(90, size=(3, LENGTH + 1))
    return objective.make_batch(sequences, np.arange(3), is_training=True)


@pytest.mark.parametrize("architecture", list(Architecture))
def test_weights_follow_from_the_seed(architecture: Architecture) -> None:
    first, same, other = (
        torch.nn.utils.parameters_to_vector(build(architecture, seed).parameters())
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_tied_parameters_count_once() -> None:
    embeddings = VOCABULARY * 16 + LENGTH * 16
    block = 2 * 2 * 16 + (16 * 48 + 48) + (16 * 16 + 16) + (16 * 64 + 64) + (64 * 16 + 16)
    assert count_parameters(build(Architecture.GPT2)) == embeddings + 2 * block + 2 * 16


@pytest.mark.parametrize("architecture", list(Architecture))
def test_losses_are_the_cross_entropy_of_targets(architecture: Architecture) -> None:
    model = build(architecture).train(mode=False)
    batch = make_batch(architecture)
    losses = compute_token_losses(model, batch)
    logits = compute_logits(model, batch).log_softmax(dim=-1)
    is_target = batch.targets != NOT_A_TARGET
    picked = -logits.gather(2, batch.targets.clamp(min=0)[..., None]).squeeze(2)
    assert losses.shape == batch.targets.shape
    assert is_target.any()
    torch.testing.assert_close(losses, picked * is_target)


@pytest.mark.parametrize("architecture", list(Architecture))
def test_every_weight_learns(architecture: Architecture) -> None:
    model = build(architecture)
    compute_token_losses(model, make_batch(architecture)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("architecture", CAUSAL)
def test_a_token_does_not_see_what_follows(architecture: Architecture) -> None:
    model = build(architecture).train(mode=False)
    sequences = torch.zeros(2, LENGTH + 1, dtype=torch.int64)
    sequences[1, 8] = 7
    first, changed = compute_token_losses(model, predict_next(sequences))
    assert torch.equal(first[:7], changed[:7])
    assert not torch.equal(first[7:], changed[7:])


def test_bert_sees_both_sides() -> None:
    model = build(Architecture.BERT).train(mode=False)
    ids = torch.zeros(1, LENGTH, dtype=torch.int64)
    changed = ids.clone()
    changed[0, -1] = 7
    first, second = (model(input_ids=each).logits[0, 0] for each in (ids, changed))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("architecture", list(Architecture))
def test_what_is_saved_loads_with_the_same_answers(
    architecture: Architecture, tmp_path: Path
) -> None:
    model = build(architecture).train(mode=False)
    model.save_pretrained(tmp_path)
    loaded = AUTO_CLASSES[OBJECTIVES[architecture]].from_pretrained(tmp_path)
    batch = make_batch(architecture)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    assert torch.equal(compute_logits(model, batch), compute_logits(loaded, batch))


def test_label_smoothing_mixes_in_the_mean_over_the_vocabulary() -> None:
    model, batch = build(Architecture.GPT2).train(mode=False), make_batch(Architecture.GPT2)
    plain, smooth = (compute_token_losses(model, batch, share) for share in (0.0, 0.1))
    uniform = -compute_logits(model, batch).log_softmax(dim=-1).mean(dim=-1)
    torch.testing.assert_close(smooth, 0.9 * plain + 0.1 * uniform)
