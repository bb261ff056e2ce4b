"""How much of a text repeats itself: lines, paragraphs and sequences of words.

Below: numpy. Above: `quality`. The measures are those of Rae et al. 2021, table A1.
"""

from __future__ import annotations

import re
from itertools import count

import numpy as np
from numpy.typing import NDArray

COMMONEST = (2, 3, 4)
REPEATED = (5, 6, 7, 8, 9, 10)

PARAGRAPH_ENDS = re.compile(r"\n{2,}")
LINE_ENDS = re.compile(r"\n+")

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""2⁶⁴ divided by the golden ratio: spreads small numbers over 64 bits (Knuth, 6.4)."""


def measure_repetition(text: str) -> dict[str, float]:
    """Return every share by its name, each between 0 and 1."""
    paragraphs, lines = PARAGRAPH_ENDS.split(text.strip()), LINE_ENDS.split(text.strip())
    size = max(len(text), 1)
    measures = {}
    for name, parts in (("lines", lines), ("paragraphs", paragraphs)):
        repeated, characters = _count_repeated(parts)
        measures[f"share of repeated {name}"] = repeated / len(parts)
        measures[f"share of characters in repeated {name}"] = characters / size

    words = text.split()
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    ids, keys = _number(words), None
    total = max(int(lengths.sum()), 1)
    for n in range(1, max(REPEATED) + 1):
        keys = ids if keys is None else _join(keys, ids, n)
        if n in COMMONEST:
            share = _measure_commonest(keys, lengths, n) / total
            measures[f"share of characters in the commonest {n}-gram"] = share
        elif n in REPEATED:
            share = _measure_repeated(keys, lengths, n) / total
            measures[f"share of characters in repeated {n}-grams"] = share
    return measures


def _count_repeated(parts: list[str]) -> tuple[int, int]:
    """Return how many parts occurred before, and their characters."""
    seen: set[str] = set()
    repeated = characters = 0
    for part in parts:
        if part in seen:
            repeated += 1
            characters += len(part)
        seen.add(part)
    return repeated, characters


def _number(words: list[str]) -> NDArray[np.uint64]:
    numbers = dict(zip(dict.fromkeys(words), count(1), strict=False))
    return np.fromiter((numbers[word] for word in words), np.uint64, len(words))


def _join(keys: NDArray[np.uint64], ids: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    """Return the keys of n-grams from those of (n-1)-grams; all are 64 bits wide."""
    following = ids[n - 1 :]
    return keys[: len(following)] * MULTIPLIER + following


def _measure_commonest(keys: NDArray[np.uint64], lengths: NDArray[np.int64], n: int) -> int:
    """Return the characters of all occurrences of the commonest n-gram, if it has several."""
    if len(keys) == 0:
        return 0
    _, first, counts = np.unique(keys, return_index=True, return_counts=True)
    most = int(counts.max())
    if most < 2:
        return 0
    # Of several that are as common, the longest one.
    starts = first[counts == most]
    return most * max(int(lengths[start : start + n].sum()) for start in starts)


def _measure_repeated(keys: NDArray[np.uint64], lengths: NDArray[np.int64], n: int) -> int:
    """Return the characters of words in n-grams that occurred before, each word once."""
    if len(keys) == 0:
        return 0
    _, first = np.unique(keys, return_index=True)
    is_repeated = np.ones(len(keys), dtype=np.int64)
    is_repeated[first] = 0
    # A word is covered where one of the n n-grams that it lies in is a repetition.
    covered = np.convolve(is_repeated, np.ones(n, dtype=np.int64)) > 0
    return int(lengths[covered].sum())
