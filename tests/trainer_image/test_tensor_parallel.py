"""Matrices divided over two real ranks, held to the whole model; runs are in `test_exactness`."""

from __future__ import annotations

import pytest

from llmtrain_operator.forecast.activations import RankWork
from llmtrain_operator.forecast.memory import compute_rank_memory
from llmtrain_operator.forecast.size import compute_size
from llmtrain_trainer.failures import ConfigurationError
from llmtrain_trainer.tensor_parallel import DIVISIBLE, check_divisible
from testbed.divided_models import (
    LENGTH,
    RANKS,
    SEQUENCES,
    SPEC,
    VOCABULARY,
    Outcome,
    compare_divided_models,
    configure,
)

TOLERANCE = 1e-5
FORECAST_TOLERANCE = 0.05


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    return compare_divided_models()


@pytest.mark.parametrize("name", DIVISIBLE)
def test_a_divided_model_has_the_loss_and_gradients_of_the_whole_one(
    outcomes: dict[str, Outcome], name: str
) -> None:
    outcome = outcomes[name]
    assert outcome.loss == pytest.approx(outcome.whole_loss, rel=1e-6)
    assert outcome.worst_gradient < TOLERANCE


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_the_forecast_counts_what_a_rank_of_a_group_has(
    outcomes: dict[str, Outcome], bf16: bool
) -> None:
    work = RankWork(
        sequences=SEQUENCES,
        sequence_length=LENGTH,
        vocabulary_size=VOCABULARY,
        shards=1,
        bf16=bf16,
        fused_attention=False,
        logits_bytes=64 << 20,
        tensor_parallel=RANKS,
    )
    size = compute_size(SPEC, vocabulary_size=VOCABULARY, sequence_length=LENGTH)
    memory = compute_rank_memory(SPEC, size, work)
    assert memory.weights == 4 * outcomes["llama"].numbers
    saved = outcomes["llama"].saved_bytes[bf16]
    assert memory.activations == pytest.approx(saved, rel=FORECAST_TOLERANCE)


@pytest.mark.parametrize(
    ("model_type", "parts", "said"),
    [
        ("llama", 6, "heads of keys and values of the model (2)"),
        ("gpt2", 2, "a gpt2 has no plan to divide its matrices by; llama, mistral, qwen2 have one"),
    ],
)
def test_what_cannot_be_divided_is_refused(model_type: str, parts: int, said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        check_divisible(configure(model_type), parts)
    assert said in refused.value.message
    assert "workers.tensorParallel" in refused.value.message
