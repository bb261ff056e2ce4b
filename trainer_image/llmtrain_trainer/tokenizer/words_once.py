"""Byte-level BPE of ASCII text, each different word encoded once.

Below: the `tokenizers` library, which encodes the words. Above: `tokenization`.

BPE knows nothing beyond a word, so that the tokens of a text are those of its words in a row. Text
repeats its words: a table of them gives the same tokens in a quarter of the time that dividing and
encoding takes the library on one core. Where words end is GPT-2's pattern; for ASCII it can be said
without tables of Unicode, which differ between versions, so other text is left to the library.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

MAX_WORDS = 500_000
"""Of the table, which is begun anew where there are more: some hundred MiB."""

LONGEST_TEXT = 1024 * 1024
"""Characters; the words of a longer text, all at once, would take hundreds of MiB."""

MOST_CORES = 4
"""With more, the library, which encodes on all cores, takes less memory than a table for each."""

SPACE = r"[\t\n\v\f\r ]"
WORD = re.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\t\n\v\f\r A-Za-z0-9]+"
    rf"|{SPACE}+(?![^\t\n\v\f\r ])|{SPACE}+"
)
"""GPT-2's pattern (Radford et al. 2019) for text of ASCII characters only."""

EncodeTexts = Callable[[Sequence[str]], Iterator[NDArray[Any]]]


class WordTable:
    """Encodes texts by a table of words, and those that are not ASCII by the library."""

    def __init__(self, tokenizer: Tokenizer, encode: EncodeTexts) -> None:
        """Give the tokens that `encode` gives, which encodes by `tokenizer`."""
        self._tokenizer = tokenizer
        self._encode = encode
        self._tokens: dict[str, list[int]] = {}

    def encode(self, texts: Sequence[str]) -> Iterator[NDArray[Any]]:
        """Yield the tokens of each text, without an end."""
        is_plain = [text.isascii() and len(text) <= LONGEST_TEXT for text in texts]
        others = self._encode([t for t, plain in zip(texts, is_plain, strict=True) if not plain])
        for text, plain in zip(texts, is_plain, strict=True):
            yield self._encode_words(WORD.findall(text)) if plain else next(others)

    def _encode_words(self, words: list[str]) -> NDArray[np.int64]:
        missing = list({word: None for word in words if word not in self._tokens})
        if missing:
            if len(self._tokens) + len(missing) > MAX_WORDS:
                self._tokens.clear()
                missing = list(dict.fromkeys(words))
            self._tokenizer.encode_special_tokens = True  # as plain text
            encodings = self._tokenizer.encode_batch_fast(missing, add_special_tokens=False)
            self._tokens.update(zip(missing, (e.ids for e in encodings), strict=True))
        table = self._tokens
        return np.fromiter(chain.from_iterable([table[word] for word in words]), dtype=np.int64)
