"""What is computed again is the same to the last bit, with dropout, in each architecture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmtrain_api.network import Architecture, ModelSpec
from llmtrain_api.objective import OBJECTIVES
from llmtrain_api.training import ActivationCheckpointing, TrainingSpec
from llmtrain_trainer.failures import ConfigurationError
from llmtrain_trainer.model.losses import compute_loss_sum
from llmtrain_trainer.model.network import build_model
from llmtrain_trainer.model.recomputation import recompute_activations
from llmtrain_trainer.objective.choosing import make_objective
from llmtrain_trainer.tokenizer.special_tokens import SENTINELS, SpecialTokens

VOCABULARY, LENGTH = 200, 32
SPECIAL = SpecialTokens(mask=1, padding=2, sentinels=list(range(3, 3 + len(SENTINELS))))


def compute_gradients(
    spec: ModelSpec, choice: ActivationCheckpointing, *, bf16: bool
) -> dict[str, torch.Tensor]:
    model = build_model(
        spec, vocabulary_size=VOCABULARY, sequence_length=LENGTH, end_of_text=0, padding=2, seed=0
    )
    recompute_activations(model, choice)
    model.train()
    objective = make_objective(
        OBJECTIVES[spec.architecture],
        TrainingSpec(steps=1, sequence_length=LENGTH),
        special=SPECIAL,
        vocabulary_size=VOCABULARY,
        end_of_text=0,
    )
    assert objective is not None
    sequences = np.random.default_rng(0).integers(VOCABULARY, size=(2, LENGTH + 1))
    batch = objective.make_batch(sequences, np.arange(2), is_training=True)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = compute_loss_sum(model, batch, logits_bytes=1 << 20)
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients}


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert", "t5"])
def test_gradients_are_bit_equal(architecture: str, bf16: bool) -> None:
    spec = ModelSpec(
        architecture=Architecture(architecture), layers=3, heads=2, hidden_size=32, dropout=0.1
    )
    kept = compute_gradients(spec, ActivationCheckpointing.NONE, bf16=bf16)
    for choice in (ActivationCheckpointing.SELECTIVE, ActivationCheckpointing.FULL):
        again = compute_gradients(spec, choice, bf16=bf16)
        assert again.keys() == kept.keys()
        assert [name for name in kept if not torch.equal(kept[name], again[name])] == []


def test_a_model_without_such_blocks_is_refused() -> None:
    model = build_model(
        ModelSpec(architecture=Architecture.LSTM, hidden_size=16),
        vocabulary_size=VOCABULARY,
        sequence_length=LENGTH,
        end_of_text=0,
        seed=0,
    )
    with pytest.raises(ConfigurationError, match="is not for models of type llmtrain_lstm"):
        recompute_activations(model, ActivationCheckpointing.FULL)
