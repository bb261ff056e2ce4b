"""The objective of a run, and the tokens that it needs of the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from llmtrain_trainer.dataset.loading import open_run_dataset
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.objective.choosing import choose_objective
from llmtrain_trainer.store import open_store
from testbed.tiny_run import configure_tiny_run, prepare_tiny_run

ADDED = {"bert": 2, "t5": 101}


@pytest.mark.parametrize("architecture", ["bert", "t5"])
def test_data_of_another_objective_is_refused(tmp_path: Path, architecture: str) -> None:
    plain = prepare_tiny_run(tmp_path, run="plain")
    dataset = open_run_dataset(open_store(plain.run_uri, plain.storage), plain)
    config = configure_tiny_run(tmp_path, model={"architecture": architecture})
    with pytest.raises(DataError, match="without the special tokens") as e:
        choose_objective(config, dataset)
    assert e.value.reason == "SpecialTokensMissing"
    assert "start a new job" in e.value.next_step


@pytest.mark.parametrize("architecture", ["bert", "t5"])
def test_prepare_adds_what_is_needed(tmp_path: Path, architecture: str) -> None:
    config = prepare_tiny_run(
        tmp_path,
        model={"architecture": architecture},
        training={"masking": {"wholeWords": True}},
    )
    dataset = open_run_dataset(open_store(config.run_uri, config.storage), config)
    assert dataset.vocabulary_size == 257 + ADDED[architecture]
    tokenizer = Tokenizer.from_file(str(dataset.tokenizer_file))
    assert tokenizer.token_to_id("<|pad|>") == dataset.special.padding
    objective = choose_objective(config, dataset)
    sequences = dataset.train.read_sequences([0, 1], 32)
    batch = objective.make_batch(sequences, np.arange(2), is_training=True)
    assert (batch.count_targets() > 0).all()
    # Text never has the tokens that were added.
    assert dataset.unigram_counts[257:].sum() == 0


def test_a_vocabulary_has_room_for_what_is_added(tmp_path: Path) -> None:
    config = prepare_tiny_run(
        tmp_path,
        model={"architecture": "bert"},
        data={"tokenizer": {"kind": "bpe", "vocabularySize": 400}},
    )
    dataset = open_run_dataset(open_store(config.run_uri, config.storage), config)
    assert dataset.vocabulary_size == 400
