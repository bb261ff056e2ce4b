"""Where words begin in the tokens of each kind of tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmtrain_api.data import Tokenizer, TokenizerKind
from llmtrain_api.objective import Objective
from llmtrain_trainer.objective.words import read_word_table
from llmtrain_trainer.tokenizer.special_tokens import OBJECTIVE_TOKENS
from llmtrain_trainer.tokenizer.tokenization import make_tokenizer

TEXT = "Ships sailed, 20 of them; größer\nthan houses."
WORDS = ["Ships", "sailed", "20", "of", "them", "größer", "than", "houses"]


@pytest.mark.parametrize("kind", ["byte", "character", "bpe", "wordpiece", "unigram"])
def test_words_are_told(tmp_path: Path, kind: str) -> None:
    spec = Tokenizer(kind=TokenizerKind(kind), vocabulary_size=700)
    special = OBJECTIVE_TOKENS[Objective.MASKED]
    encoder = make_tokenizer(spec, [TEXT] * 3, tmp_path / "tokenizer", special)
    table = read_word_table(tmp_path / "tokenizer" / "tokenizer.json", encoder.vocabulary_size)
    (tokens,) = encoder.encode([TEXT])
    numbers = table.number_words(tokens.astype(np.int64))
    assert numbers[0] == 0
    assert sorted(set(numbers)) == list(range(numbers[-1] + 1))
    # A word is one number; spaces, signs and the end are others.
    assert len(set(numbers)) >= len(WORDS)
    lengths = np.bincount(numbers)
    if kind in {"byte", "character"}:
        sizes = [len(w.encode() if kind == "byte" else w) for w in WORDS]
        assert sorted(lengths[lengths > 1]) == sorted(size for size in sizes if size > 1)
