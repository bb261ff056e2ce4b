"""Words and word sequences as 64-bit numbers, for many documents at once.

Below: numpy. Above: `minhash`, `duplicates` and `contamination` compare documents by them.

A word is a run of letters and digits, whatever their case; a Chinese or Japanese character is a
word of its own, since nothing divides them. A word's number is a polynomial over random numbers
of its bytes, so that it is computed for a whole batch by a few passes over an array and without a
call for each word.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

MAX_WORD_BYTES = 64
"""Of a longer word, a byte counts like the one this much before it."""

FIRST_IDEOGRAPH_BYTE, LAST_IDEOGRAPH_BYTE = 0xE3, 0xE9
"""The first of the three bytes of U+3000 to U+9FFF in UTF-8."""

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def spread_numbers(seed: int, count: int) -> Hashes:
    """Return `count` numbers that look random: SplitMix64 (Steele et al. 2014)."""
    start = np.uint64(seed)
    numbers = start + MULTIPLIER * np.arange(1, count + 1, dtype=np.uint64)
    return mix_bits(numbers)


def mix_bits(numbers: Hashes) -> Hashes:
    """Return the numbers with every bit of each depending on all of its bits."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def hash_words(texts: Sequence[str]) -> tuple[Hashes, NDArray[np.int64]]:
    """Return the words of all texts, one text after the other, and how many each has [texts]."""
    encoded = [text.lower().encode() for text in texts]
    data = np.frombuffer(b"\n".join(encoded), dtype=np.uint8)
    starts = _find_starts(data)
    if len(starts) == 0:
        return np.empty(0, dtype=np.uint64), np.zeros(len(texts), dtype=np.int64)
    place = np.arange(len(data) - starts[0], dtype=np.int32)
    lengths = np.diff(starts, append=len(data))
    place -= np.repeat((starts - starts[0]).astype(np.int32), lengths)
    terms = BYTE_NUMBERS[data[starts[0] :]] * POWERS[place & (MAX_WORD_BYTES - 1)]
    words = mix_bits(np.add.reduceat(terms, starts - starts[0]))

    ends = np.cumsum([len(part) + 1 for part in encoded])
    counts = np.diff(np.searchsorted(starts, ends), prepend=0)
    return words, counts.astype(np.int64)


def hash_sequences(words: Hashes, counts: NDArray[np.int64], length: int) -> Hashes:
    """Return the sequence of `length` words that begins at each word, within its document.

    Sequences that begin near a document's end are as if blank words followed, so that there are
    as many as words, and a short document has some too.
    """
    document = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(words)) + document * (length - 1)
    padded = np.zeros(len(words) + len(counts) * (length - 1) + length, dtype=np.uint64)
    padded[place] = words
    sequences = padded[place]
    for offset in range(1, length):
        sequences = sequences * MULTIPLIER + padded[place + offset]
    return mix_bits(sequences)


def _find_starts(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    is_word = IS_WORD[data]
    is_start = is_word.copy()
    is_start[1:] &= ~is_word[:-1]
    is_ideograph = (data >= FIRST_IDEOGRAPH_BYTE) & (data <= LAST_IDEOGRAPH_BYTE)
    if is_ideograph.any():
        is_start |= is_ideograph
        is_start[3:] |= is_ideograph[:-3] & is_word[3:]
    return np.flatnonzero(is_start)


def _make_word_table() -> NDArray[np.bool_]:
    is_word = np.zeros(256, dtype=np.bool_)
    is_word[[byte for byte in range(256) if byte >= 0x80 or chr(byte).isalnum()]] = True
    return is_word


IS_WORD = _make_word_table()
BYTE_NUMBERS = np.where(IS_WORD, spread_numbers(1, 256), np.uint64(0))
POWERS = np.cumprod(np.full(MAX_WORD_BYTES, MULTIPLIER))
