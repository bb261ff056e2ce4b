"""A trial is a few real steps, and its memory is what the forecast says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llmtrain_api.network import ModelSpec
from llmtrain_api.training import Precision, TrainingSpec
from llmtrain_operator.forecast.activations import RankWork
from llmtrain_operator.forecast.memory import compute_rank_memory
from llmtrain_operator.forecast.size import compute_size
from llmtrain_trainer.training.trial import TrialRequest, TrialResult

TOLERANCE = 0.25
"""The allocator's and oneDNN's own memory is in the measurement; at larger shapes it is a tenth."""


def test_a_process_of_its_own_measures_speed_and_memory() -> None:
    spec = ModelSpec(layers=4, heads=4, hidden_size=256)
    request = TrialRequest(
        model=spec,
        training=TrainingSpec(steps=1, precision=Precision.FP32, sequence_length=128),
        vocabulary_size=4096,
        sequences=16,
        threads=1,
    )

    done = subprocess.run(
        [sys.executable, "-m", "llmtrain_trainer.training.trial"],
        input=request.model_dump_json(by_alias=True),
        capture_output=True,
        text=True,
        check=True,
    )
    result = TrialResult.model_validate_json(done.stdout)

    work = RankWork(
        sequences=16,
        sequence_length=128,
        vocabulary_size=4096,
        shards=1,
        bf16=False,
        fused_attention=False,
        logits_bytes=64 << 20,
    )
    size = compute_size(spec, vocabulary_size=4096, sequence_length=128)
    forecast = compute_rank_memory(spec, size, work).peak
    assert result.tokens_per_second > 0
    assert not result.bf16
    assert result.peak_bytes == pytest.approx(forecast, rel=TOLERANCE)
