"""MinHash: documents with many word sequences in common get equal keys, most likely.

Below: `words`. Above: `refine` computes the keys, `duplicates` compares documents with equal ones.

The least of the numbers that a random function gives to a document's word sequences is the same
for two documents with a probability that is their Jaccard similarity (Broder 1997). `rows` such
numbers make a key, so that keys agree with probability s^rows, and one of `bands` keys agrees with
probability 1 − (1 − s^rows)^bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmtrain_api.data import DataSpec, SplitMethod
from llmtrain_api.recipe import NearMethod
from llmtrain_trainer.preparation.words import (
    MULTIPLIER,
    Hashes,
    hash_sequences,
    hash_words,
    mix_bits,
    spread_numbers,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """How near-duplicates are found."""

    bands: int
    rows: int

    words: int
    """In a sequence."""

    similarity: float
    """Jaccard similarity of the sets of sequences from which on a pair is one of duplicates.
    0: what has a key in common is, as FineWeb takes it."""


SCHEMES = {
    NearMethod.EDITED: Scheme(bands=32, rows=4, words=3, similarity=0.5),
    NearMethod.FINEWEB: Scheme(bands=14, rows=8, words=5, similarity=0.0),
}


LEAKAGE_SCHEME = Scheme(bands=12, rows=3, words=3, similarity=0.5)
"""For near copies between the parts of a split, which are counted and not left out: a pair of a
similarity s has a key in common with a probability of 1 − (1 − s³)¹²: 0.80 at 0.5, 0.99 at 0.7."""


def choose_scheme(data: DataSpec) -> Scheme | None:
    """Return by which scheme a recipe wants keys of its documents; None: it wants none."""
    if data.deduplicate.near is not NearMethod.NONE:
        return SCHEMES[data.deduplicate.near]
    return LEAKAGE_SCHEME if checks_leakage(data) else None


def checks_leakage(data: DataSpec) -> bool:
    """Return whether near copies between the parts of the split are counted.

    They are not where they are left out, and not where parts of one document are held out.
    """
    return (
        data.split.check_leakage
        and data.split.method is not SplitMethod.TAIL
        and data.deduplicate.near is NearMethod.NONE
    )


def compute_keys(texts: Sequence[str], scheme: Scheme) -> Hashes:
    """Return the keys of each text [texts, bands]; a text without words has keys of zero."""
    words, counts = hash_words(texts)
    keys = np.zeros((len(texts), scheme.bands), dtype=np.uint64)
    has_words = counts > 0
    if not has_words.any():
        return keys
    sequences = hash_sequences(words, counts, scheme.words)
    numbers = (sequences >> np.uint64(32)).astype(np.uint32)
    starts = np.concatenate([[0], np.cumsum(counts[has_words])[:-1]])

    functions = spread_numbers(2, 2 * scheme.bands * scheme.rows).astype(np.uint32)
    factors, terms = functions[::2] | np.uint32(1), functions[1::2]
    values = np.empty_like(numbers)
    for band in range(scheme.bands):
        key = np.full(len(starts), band + 1, dtype=np.uint64)
        for row in range(band * scheme.rows, (band + 1) * scheme.rows):
            np.multiply(numbers, factors[row], out=values)
            values += terms[row]
            key = key * MULTIPLIER + np.minimum.reduceat(values, starts)
        keys[has_words, band] = mix_bits(key)
    return keys


def measure_similarity(one: Hashes, other: Hashes) -> float:
    """Return the Jaccard similarity of two sorted sets of word sequences."""
    if len(one) == 0 or len(other) == 0:
        return 0.0
    place = np.minimum(np.searchsorted(other, one), len(other) - 1)
    common = int((other[place] == one).sum())
    return common / (len(one) + len(other) - common)


def list_sequences(text: str, scheme: Scheme) -> Hashes:
    """Return the set of a text's word sequences, sorted."""
    words, counts = hash_words([text])
    sequences = hash_sequences(words, counts, scheme.words)
    # np.unique goes through a hash table first, which takes twice the time of sorting so few.
    sequences.sort()
    is_new = np.ones(len(sequences), dtype=np.bool_)
    np.not_equal(sequences[1:], sequences[:-1], out=is_new[1:])
    return sequences[is_new]
