"""Masked text: how much is hidden, what becomes of it, and whole words."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from llmtrain_api.objective import MaskingSpec
from llmtrain_trainer.objective.batch import NOT_A_TARGET, Batch
from llmtrain_trainer.objective.masking import HiddenTokens
from llmtrain_trainer.objective.words import WordTable

VOCABULARY, END_OF_TEXT, MASK = 100, 98, 99
LENGTH, COUNT = 200, 100


def make(spec: MaskingSpec | None = None, words: WordTable | None = None) -> HiddenTokens:
    return HiddenTokens(
        spec or MaskingSpec(),
        seed=3,
        mask=MASK,
        special={MASK, END_OF_TEXT},
        vocabulary_size=VOCABULARY,
        words=words,
    )


def make_sequences(count: int = COUNT) -> NDArray[np.int64]:
    sequences = np.random.default_rng(0).integers(98, size=(count, LENGTH + 1))
    sequences[:, 50] = END_OF_TEXT
    return sequences


def hide(objective: HiddenTokens, *, is_training: bool = True) -> Batch:
    return objective.make_batch(make_sequences(), np.arange(COUNT), is_training=is_training)


def test_a_share_of_the_tokens_is_hidden_80_10_10() -> None:
    batch = hide(make())
    inputs, targets = batch.inputs["input_ids"].numpy(), batch.targets.numpy()
    original = make_sequences()[:, :-1]
    chosen = targets != NOT_A_TARGET
    assert (chosen.sum(axis=1) == round(0.15 * LENGTH)).all()
    assert (targets[chosen] == original[chosen]).all()
    assert (inputs[~chosen] == original[~chosen]).all()
    hidden = inputs[chosen] == MASK
    replaced = ~hidden & (inputs[chosen] != original[chosen])
    # 3,000 draws: four deviations are 0.03 and 0.022.
    assert hidden.mean() == pytest.approx(0.8, abs=0.03)
    assert replaced.mean() == pytest.approx(0.1, abs=0.022)
    assert not chosen[:, 50].any()
    assert END_OF_TEXT not in inputs[:, :50]


def test_each_epoch_hides_something_else_and_every_evaluation_the_same() -> None:
    objective, sequences = make(), make_sequences(1)
    first, same, later = (
        objective.make_batch(sequences, np.array([number]), is_training=True).targets
        for number in (5, 5, 6)
    )
    assert (first == same).all()
    assert (first != later).any()
    held_out = objective.make_batch(sequences, np.array([5]), is_training=False).targets
    assert (held_out != first).any()


def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    objective, sequences, numbers = make(), make_sequences(), np.arange(COUNT)
    whole = objective.make_batch(sequences, numbers, is_training=True)
    part = objective.make_batch(sequences[37:39], numbers[37:39], is_training=True)
    assert (whole.inputs["input_ids"][37:39] == part.inputs["input_ids"]).all()
    assert (whole.targets[37:39] == part.targets).all()


def test_a_sequence_of_nothing_but_ends_has_no_target() -> None:
    sequences = np.full((1, LENGTH + 1), END_OF_TEXT)
    batch = make().make_batch(sequences, np.array([0]), is_training=True)
    assert batch.count_targets().tolist() == [0]


def test_whole_words_are_hidden_together() -> None:
    within = np.zeros(VOCABULARY, dtype=np.bool_)
    within[:40] = True
    none = np.zeros(VOCABULARY, dtype=np.bool_)
    words = WordTable(none, none, within)
    batch = hide(make(MaskingSpec(whole_words=True), words))
    for row, targets in zip(make_sequences()[:, :-1], batch.targets.numpy(), strict=True):
        numbers = words.number_words(row)
        chosen = set(numbers[targets != NOT_A_TARGET])
        usable = (targets != NOT_A_TARGET) | (row == END_OF_TEXT)
        assert all(usable[numbers == word].all() for word in chosen)
        assert 20 <= (targets != NOT_A_TARGET).sum() <= round(0.15 * LENGTH)
