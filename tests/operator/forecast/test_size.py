"""The counts of the forecast are those of the networks that are built, and of their training."""

from __future__ import annotations

import pytest

from llmtrain_api.network import ModelSpec
from llmtrain_operator.forecast.size import compute_size
from llmtrain_trainer.model.network import build_model, count_parameters
from llmtrain_trainer.training.utilization import count_token_flops

MODELS = [
    ModelSpec(layers=2, heads=4, hidden_size=32),
    ModelSpec(layers=3, heads=6, hidden_size=96),
    ModelSpec(architecture="llama", layers=2, heads=4, hidden_size=40),
    ModelSpec(architecture="llama", layers=3, heads=6, key_value_heads=2, hidden_size=96),
    ModelSpec(architecture="bert", layers=3, heads=6, hidden_size=96),
    ModelSpec(architecture="t5", layers=3, heads=6, hidden_size=96),
    ModelSpec(architecture="lstm", layers=3, hidden_size=96),
    ModelSpec(architecture="t5", size=1_000_000),
]


@pytest.mark.parametrize("spec", MODELS, ids=repr)
def test_as_many_parameters_as_are_built(spec: ModelSpec) -> None:
    model = build_model(spec, vocabulary_size=300, sequence_length=64, end_of_text=0, seed=0)

    size = compute_size(spec, vocabulary_size=300, sequence_length=64)

    assert size.parameters == count_parameters(model)
    if not model.config.is_encoder_decoder:
        assert size.flops_per_token == count_token_flops(model, 64)


def test_the_arithmetic_of_gpt2_124m_is_that_of_the_paper() -> None:
    spec = ModelSpec(layers=12, heads=12, hidden_size=768)

    size = compute_size(spec, vocabulary_size=50257, sequence_length=1024)

    assert size.parameters == 124_439_808  # as Hugging Face counts gpt2
    # 6 x (parameters without positions, biases and norms) + 12 x 12 x 768 x 1024.
    assert size.flops_per_token == pytest.approx(6 * 123.53e6 + 113.2e6, rel=1e-3)
