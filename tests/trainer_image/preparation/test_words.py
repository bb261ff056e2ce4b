"""Words and sequences of words as numbers, against the same thing word by word."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtrain_trainer.preparation.words import hash_sequences, hash_words

WORD = re.compile(r"[0-9a-zA-Z\u0080-\u2fff\ua000-\U0010ffff]+|[\u3000-\u9fff]")

TEXTS = ["One two", "", "two, ONE!", "日本語 and one", "x" * 100, "--", "one"]


def number(words: list[str]) -> list[int]:
    """Return the numbers of words, each hashed in a text of its own."""
    return [int(hash_words([word])[0][0]) for word in words]


def test_words_are_runs_of_letters_whatever_their_case() -> None:
    words, counts = hash_words(TEXTS)
    assert counts.tolist() == [2, 0, 2, 5, 1, 0, 1]
    expected = [w for text in TEXTS for w in WORD.findall(text.lower())]
    assert words.tolist() == number(expected)
    assert len(set(words.tolist())) == len(set(expected))


@given(texts=st.lists(st.text(alphabet="abA \n-.é語文字🙂", max_size=12), max_size=5))
def test_a_batch_gives_what_each_text_gives(texts: list[str]) -> None:
    words, counts = hash_words(texts)
    parts = np.split(words, np.cumsum(counts)[:-1]) if texts else []
    for text, part in zip(texts, parts, strict=True):
        assert part.tolist() == number(WORD.findall(text.lower()))


@pytest.mark.parametrize("length", [1, 3, 13])
def test_sequences_stay_within_their_document(length: int) -> None:
    alone = [hash_sequences(*hash_words([text]), length).tolist() for text in TEXTS]
    together = hash_sequences(*hash_words(TEXTS), length).tolist()
    assert together == [key for keys in alone for key in keys]
    assert [len(keys) for keys in alone] == hash_words(TEXTS)[1].tolist()


def test_order_of_words_matters() -> None:
    one, other = (hash_sequences(*hash_words([text]), 2) for text in ("a b c", "c b a"))
    assert not set(one.tolist()) & set(other.tolist())


def test_numbers_do_not_collide() -> None:
    words, _ = hash_words([" ".join(f"w{i}" for i in range(200_000))])
    assert len(np.unique(words)) == 200_000
    assert len(np.unique(words >> np.uint64(40))) == pytest.approx(
        2**24 * (1 - np.exp(-200_000 / 2**24)), rel=0.01
    )
