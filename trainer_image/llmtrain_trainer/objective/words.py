"""Which tokens belong to one word, from the tokens alone.

Below: the `tokenizers` library. Above: `masking` for whole words.

Where a tokenizer marks pieces within words (WordPiece), its marks decide. Otherwise a token goes on
with the word of the one before it where that ends and it begins with a letter or a digit; so words
are told in the text of byte, character and BPE tokens alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from llmtrain_trainer.tokenizer.learning import list_byte_characters

ASCII_BYTES = 0x80
"""Bytes from here on are parts of characters, most of them letters."""


class WordTable:
    """Says where words begin in a row of tokens."""

    def __init__(
        self, begins: NDArray[np.bool_], ends: NDArray[np.bool_], within: NDArray[np.bool_]
    ) -> None:
        """Know of each token [vocabulary]: whether it begins or ends like a word, or is within."""
        self._begins, self._ends, self._within = begins, ends, within

    def number_words(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return for each token [t] the number of its word; what is no word counts alone."""
        goes_on = self._within[tokens]
        goes_on[1:] |= self._ends[tokens[:-1]] & self._begins[tokens[1:]]
        goes_on[:1] = False
        return np.cumsum(~goes_on) - 1


def read_word_table(path: Path, vocabulary_size: int) -> WordTable:
    """Read a tokenizer.json."""
    text = path.read_text(encoding="utf-8")
    model = json.loads(text)["model"]
    prefix = model.get("continuing_subword_prefix") if model["type"] == "WordPiece" else None
    is_letter = _choose_letters(text)
    begins, ends, within = (np.zeros(vocabulary_size, dtype=np.bool_) for _ in range(3))
    tokenizer = Tokenizer.from_str(text)
    special = {t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special}
    for token, number in tokenizer.get_vocab(with_added_tokens=True).items():
        if token in special or not token:
            continue
        if prefix:
            within[number] = token.startswith(prefix)
        else:
            begins[number], ends[number] = is_letter(token[0]), is_letter(token[-1])
    return WordTable(begins, ends, within)


def _choose_letters(text: str) -> Callable[[str], bool]:
    """Return what tells letters and digits in the tokens of a tokenizer.json."""
    if "ByteLevel" not in json.dumps(json.loads(text)["decoder"]):
        return str.isalnum
    letters = {
        character
        for byte, character in enumerate(list_byte_characters())
        if byte >= ASCII_BYTES or chr(byte).isalnum()
    }
    return letters.__contains__
