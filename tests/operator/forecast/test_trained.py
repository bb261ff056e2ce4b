"""What is trained of a model, as counted, is what needs gradients once it is built."""

from __future__ import annotations

from typing import Any

import pytest

from llmtrain_api.lora import FreezeSpec, LoraSpec
from llmtrain_api.network import ModelSpec
from llmtrain_api.training import TrainingSpec
from llmtrain_operator.forecast.size import compute_size
from llmtrain_operator.forecast.trained import count_token_flops, count_trained
from llmtrain_trainer.model.adapters import add_adapters
from llmtrain_trainer.model.freezing import freeze_parts
from llmtrain_trainer.model.network import build_model, count_parameters
from llmtrain_trainer.training.utilization import count_token_flops as count_built_flops

VOCABULARY, LENGTH = 300, 64


@pytest.mark.parametrize(
    "part",
    [
        pytest.param({"lora": LoraSpec(rank=3)}, id="lora"),
        pytest.param({"lora": LoraSpec(rank=3, dora=True)}, id="dora"),
        pytest.param({"freeze": FreezeSpec(layers=2)}, id="layers"),
        pytest.param({"freeze": FreezeSpec(layers=1, embeddings=True)}, id="embeddings"),
    ],
)
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert", "t5"])
def test_as_many_as_need_gradients(architecture: Any, part: dict[str, Any]) -> None:
    is_llama = architecture == "llama"
    spec = ModelSpec(
        architecture=architecture, layers=3, heads=6, hidden_size=96,
        key_value_heads=2 if is_llama else None,
    )  # fmt: skip
    model = build_model(
        spec, vocabulary_size=VOCABULARY, sequence_length=LENGTH, end_of_text=0, seed=0
    )
    training = TrainingSpec(steps=1, **part)
    if training.lora is not None:
        add_adapters(model, training.lora, seed=0, new_tokens=range(0))
    if training.freeze is not None:
        freeze_parts(model, training.freeze, num_new_tokens=0)
    size = compute_size(spec, vocabulary_size=VOCABULARY, sequence_length=LENGTH)
    # T5's first layers have the biases of distances, which are not looked at.
    known = pytest.approx(count_parameters(model), rel=2e-3 if architecture == "t5" else 0)
    assert count_trained(training, spec.resolve(), size) == known
    if architecture != "t5" and not (training.lora is not None and training.lora.dora):
        counted = count_token_flops(training, spec.resolve(), size, count_parameters(model))
        assert counted == count_built_flops(model, LENGTH)


def test_targets_are_ends_of_names() -> None:
    spec = ModelSpec(architecture="llama", layers=2, heads=4, hidden_size=32)
    size = compute_size(spec, vocabulary_size=VOCABULARY, sequence_length=LENGTH)
    training = TrainingSpec(steps=1, lora=LoraSpec(rank=2, targets=["q_proj", "mlp.up_proj"]))
    inner = spec.resolve().inner_width
    expected = 2 * 2 * ((32 + 32) + (32 + inner))
    assert count_trained(training, spec.resolve(), size) == expected
