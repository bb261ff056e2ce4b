"""The largest micro-batch that fits: found by trial, once, and kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmtrain_trainer.dataset.loading import open_run_dataset
from llmtrain_trainer.failures import PreemptedError
from llmtrain_trainer.model.network import build_model
from llmtrain_trainer.objective.batch import NextToken
from llmtrain_trainer.parallel import join_ranks
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.store import open_store
from llmtrain_trainer.training.micro_batch import (
    choose_next_size,
    choose_size,
    find_micro_batch,
    find_size,
    read_micro_batch,
    settle_micro_batch,
)
from llmtrain_trainer.training.optim import Optimizer
from testbed.ranks import Fate, RunningRanks, run_ranks
from testbed.tiny_run import prepare_tiny_run

LOSS_TOLERANCE = 1e-6


@pytest.mark.parametrize(
    ("share", "limit", "size"),
    [
        pytest.param(16, 10_000, 16, id="all-of-it"),
        pytest.param(16, 100 + 9 * 10, 8, id="ten-would-fit-but-two-passes-are-of-eight"),
        pytest.param(10, 100 + 3 * 10, 4, id="three-passes-of-four"),
        pytest.param(7, 100, 1, id="one"),
        pytest.param(7, 50, 1, id="not-even-one"),
    ],
)
def test_passes_are_as_few_as_fit(share: int, limit: int, size: int) -> None:
    assert choose_size(share, one=100, two=110, limit=limit) == size


def test_what_does_not_fit_after_all_becomes_one_pass_more() -> None:
    tried = []

    def try_pass(sequences: int) -> int | None:
        tried.append(sequences)
        return None if sequences > 5 else 100 + 10 * sequences

    assert find_size(16, 1000, try_pass) == (4, 140)
    assert tried == [1, 2, 16, 8, 6, 4]
    assert find_size(16, 1000, lambda sequences: 90 * sequences) == (8, 720)
    assert find_size(16, 1000, lambda sequences: None) == (1, 1000)
    assert choose_next_size(16, 2) == 1


def test_a_real_pass_takes_what_was_foretold(tmp_path: Path) -> None:
    """At a width at which memory is that of activations; the limit lets half of the batch fit."""
    config = prepare_tiny_run(
        tmp_path,
        model={"layers": 2, "heads": 4, "hiddenSize": 256},
        training={"batchSize": 16, "sequenceLength": 128, "autoMicroBatch": True},
    )
    dataset = open_run_dataset(open_store(config.run_uri, config.storage), config)
    torch.set_num_threads(1)
    model = build_model(
        config.model,
        vocabulary_size=dataset.vocabulary_size,
        sequence_length=128,
        end_of_text=dataset.end_of_text,
        seed=0,
    )
    optimizer = Optimizer(model.named_parameters(), config.training.optimizer)
    with join_ranks(RankGroup(), threads=1) as ranks:
        found = find_micro_batch(config, model, NextToken(128), optimizer, dataset.train, ranks)
    assert found.sequences == 16
    assert found.peak_bytes < found.limit_bytes
    assert all(p.grad is None for p in model.parameters())
    assert settle_micro_batch(config, found).training.micro_batch_size == 16


def test_a_run_keeps_its_micro_batch_and_its_losses_over_ranks(tmp_path: Path) -> None:
    training = {"batchTokens": 8 * 32, "batchSize": None}
    plain = prepare_tiny_run(tmp_path, run="plain", training=training)
    losses = run_ranks(plain).list_facts("loss")
    sections = {"training": {**training, "autoMicroBatch": True}}
    config = prepare_tiny_run(tmp_path, run="auto", processes_per_worker=2, **sections)
    ranks = RunningRanks(config, fate=Fate(leaves_in_step=3))
    with pytest.raises(PreemptedError):
        ranks.finish()
    store = open_store(config.run_uri, config.storage)
    found = read_micro_batch(store)
    assert found is not None
    assert (found.sequences, found.world_size) == (4, 2)
    told = ranks.logs[0].list_facts("loss")
    alone = prepare_tiny_run(tmp_path, run="auto", **sections)
    told += run_ranks(alone, round_number=2).list_facts("loss")
    assert read_micro_batch(store) == found
    assert told == pytest.approx(losses, rel=LOSS_TOLERANCE, abs=0)
