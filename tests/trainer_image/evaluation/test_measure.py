"""Held-out loss: the same however it is batched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmtrain_api.network import ModelSpec
from llmtrain_trainer.dataset.loading import open_run_dataset
from llmtrain_trainer.evaluation.measure import choose_sequences, measure
from llmtrain_trainer.model.network import build_model
from llmtrain_trainer.objective.batch import NextToken
from llmtrain_trainer.parallel import join_ranks
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.store import open_store
from testbed.tiny_run import prepare_tiny_run


@pytest.mark.parametrize(
    ("available", "wanted", "expected"),
    [(10, 20, range(10)), (10, 10, range(10)), (10, 5, range(0, 10, 2)), (7, 2, [0, 3])],
)
def test_sequences_are_spread(available: int, wanted: int, expected: list[int]) -> None:
    assert choose_sequences(available, wanted).tolist() == list(expected)


def test_loss_depends_neither_on_the_batch_nor_on_chunks(tmp_path: Path) -> None:
    config = prepare_tiny_run(tmp_path)
    dataset = open_run_dataset(open_store(config.run_uri, config.storage), config)
    model = build_model(
        ModelSpec(layers=1, heads=1, hidden_size=8),
        vocabulary_size=dataset.vocabulary_size,
        sequence_length=16,
        end_of_text=dataset.end_of_text,
        seed=0,
    )
    with join_ranks(RankGroup(), threads=1) as ranks:
        losses = [
            measure(
                model,
                NextToken(16),
                dataset.validation,
                np.arange(7),
                ranks,
                sequence_length=16,
                batch_size=batch_size,
                logits_bytes=logits_bytes,
            ).loss
            for batch_size in (1, 3, 7, 20)
            for logits_bytes in (5000, 2**30)
        ]
    assert losses == pytest.approx([losses[0]] * 8, abs=1e-6)
    assert losses[0] == pytest.approx(np.log(dataset.vocabulary_size), abs=0.5)
    assert model.training
