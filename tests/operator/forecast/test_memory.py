"""What a forward pass keeps, held to autograd's own saved tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmtrain_api.network import Architecture, ModelSpec
from llmtrain_api.objective import OBJECTIVES
from llmtrain_api.training import ActivationCheckpointing, TrainingSpec
from llmtrain_operator.forecast.activations import RankWork
from llmtrain_operator.forecast.memory import RankMemory, compute_rank_memory
from llmtrain_operator.forecast.size import compute_size
from llmtrain_trainer.model.network import build_model, compute_token_losses
from llmtrain_trainer.model.recomputation import recompute_activations
from llmtrain_trainer.objective.choosing import make_objective
from llmtrain_trainer.tokenizer.special_tokens import SENTINELS, SpecialTokens

SEQUENCES, LENGTH, VOCABULARY = 2, 64, 500
SPECIAL = SpecialTokens(mask=1, padding=2, sentinels=list(range(3, 3 + len(SENTINELS))))
TOLERANCE = 0.05

MODELS = [
    ModelSpec(layers=3, heads=6, hidden_size=96),
    ModelSpec(layers=3, heads=6, hidden_size=96, dropout=0.1),
    ModelSpec(architecture="llama", layers=3, heads=6, hidden_size=96),
    ModelSpec(architecture="llama", layers=3, heads=6, key_value_heads=2, hidden_size=96),
    *(
        ModelSpec(
            architecture=architecture,
            layers=3,
            heads=None if architecture == "lstm" else 6,
            hidden_size=96,
            dropout=dropout,
        )
        for architecture in ("bert", "t5", "lstm")
        for dropout in (0.0, 0.1)
    ),
]


def forecast(
    spec: ModelSpec,
    *,
    bf16: bool = False,
    shards: int = 1,
    recomputed: ActivationCheckpointing = ActivationCheckpointing.NONE,
) -> RankMemory:
    work = RankWork(
        sequences=SEQUENCES,
        sequence_length=LENGTH,
        vocabulary_size=VOCABULARY,
        shards=shards,
        bf16=bf16,
        fused_attention=False,
        logits_bytes=64 << 20,
        recomputed=recomputed,
    )
    size = compute_size(spec, vocabulary_size=VOCABULARY, sequence_length=LENGTH)
    return compute_rank_memory(spec, size, work)


def measure_saved_bytes(
    spec: ModelSpec,
    *,
    bf16: bool = False,
    recomputed: ActivationCheckpointing = ActivationCheckpointing.NONE,
) -> int:
    """Return the bytes that autograd keeps beside the parameters and the log-probabilities."""
    model = build_model(
        spec,
        vocabulary_size=VOCABULARY,
        sequence_length=LENGTH,
        end_of_text=0,
        padding=SPECIAL.padding,
        seed=0,
    )
    recompute_activations(model, recomputed)
    model.train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, torch.Tensor] = {}  # kept, so that no address is used twice

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    objective = make_objective(
        OBJECTIVES[spec.architecture],
        TrainingSpec(steps=1, sequence_length=LENGTH),
        special=SPECIAL,
        vocabulary_size=VOCABULARY,
        end_of_text=0,
    )
    assert objective is not None
    sequences = np.random.default_rng(0).integers(VOCABULARY, size=(SEQUENCES, LENGTH + 1))
    batch = objective.make_batch(sequences, np.arange(SEQUENCES), is_training=True)
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        losses = compute_token_losses(model, batch)
    assert losses.requires_grad
    log_probabilities = 4 * losses.numel() * VOCABULARY
    return sum(t.untyped_storage().nbytes() for t in saved.values()) - log_probabilities


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("spec", MODELS, ids=repr)
def test_activations_are_what_autograd_keeps(spec: ModelSpec, bf16: bool) -> None:
    saved = measure_saved_bytes(spec, bf16=bf16)

    assert forecast(spec, bf16=bf16).activations == pytest.approx(saved, rel=TOLERANCE)


@pytest.mark.parametrize("choice", ["selective", "full"])
@pytest.mark.parametrize(
    "spec", [spec for spec in MODELS if spec.architecture is not Architecture.LSTM], ids=repr
)
def test_blocks_that_are_computed_again_keep_their_inputs(spec: ModelSpec, choice: str) -> None:
    recomputed = ActivationCheckpointing(choice)
    spec = spec.model_copy(update={"layers": 4})
    saved = measure_saved_bytes(spec, recomputed=recomputed)

    expected = forecast(spec, recomputed=recomputed)
    assert expected.activations == pytest.approx(saved, rel=TOLERANCE)
    assert expected.peak < forecast(spec).peak


def test_fsdp_divides_the_state_and_gathers_blocks() -> None:
    spec = ModelSpec(layers=3, heads=6, hidden_size=96)
    whole, divided = forecast(spec), forecast(spec, shards=4)

    assert divided.weights == pytest.approx(whole.weights / 4, abs=4)
    assert divided.optimizer == pytest.approx(whole.optimizer / 4, abs=8)
    assert divided.activations == whole.activations
    assert whole.gathered == 0 < divided.gathered < whole.weights
