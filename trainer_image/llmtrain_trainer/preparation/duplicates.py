"""Documents that were there before, exactly or nearly; the first one of each kind stays.

Below: `spool`, `minhash`. Above: `prepare`.

What is compared is what was spooled: one number in memory for each document and key at a time, so
that a band of keys of a million documents takes 8 MB. A near-duplicate is judged against the
document that stays, so that a chain of small differences does not end at a document that has
nothing in common with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from llmtrain_trainer.preparation.minhash import Scheme, list_sequences, measure_similarity
from llmtrain_trainer.preparation.spool import Spool
from llmtrain_trainer.preparation.tally import MAX_EXAMPLES, Tally
from llmtrain_trainer.preparation.words import Hashes

Numbers = NDArray[np.int64]
"""Numbers of spooled documents, ascending."""

COMPARED_DOCUMENTS = 4096
"""Whose word sequences are kept in memory while pairs are compared."""


def drop_exact_duplicates(spool: Spool) -> tuple[Numbers, Tally]:
    """Return the documents whose text no earlier one has."""
    _, first, which = np.unique(spool.digests, return_index=True, return_inverse=True)
    originals = first[which]
    numbers = np.arange(len(spool))
    return _drop(spool, numbers, originals, "exact duplicates")


def drop_near_duplicates(
    spool: Spool, numbers: Numbers, keys: Hashes, scheme: Scheme
) -> tuple[Numbers, Tally]:
    """Return those of the documents that are not nearly an earlier one of them.

    Args:
        spool: where the documents are.
        numbers: the documents to look at.
        keys: of all spooled documents [documents, bands].
        scheme: by which the keys were made.
    """
    measure = make_comparison(spool, scheme)
    originals = numbers.copy()
    for place, candidates in _list_candidates(numbers, keys):
        tried = set()
        for candidate in candidates:
            original = originals[candidate]
            if original in tried:
                continue
            tried.add(original)
            if measure(int(original), int(numbers[place])) >= scheme.similarity:
                originals[place] = original
                break
    return _drop(spool, numbers, originals, "near duplicates")


def find_candidates(keys: Hashes) -> NDArray[np.uint64]:
    """Return pairs of rows that agree in a key of one band, as (later row · 2³²) + earlier row.

    Of each group that agrees, every row is paired with the first one and with the one before it:
    as many pairs as rows, where all pairs of a group would be its square.
    """
    pairs = np.empty(0, dtype=np.uint64)
    for band in range(keys.shape[1]):
        column = np.ascontiguousarray(keys[:, band])
        order = np.argsort(column, kind="stable").astype(np.uint64)
        ordered = column[order]
        follows = np.flatnonzero((ordered[1:] == ordered[:-1]) & (ordered[1:] != 0)) + 1
        begins = np.ones(len(order), dtype=np.int64)
        begins[follows] = 0
        heads = np.maximum.accumulate(np.where(begins == 1, np.arange(len(order)), 0))
        later = order[follows] << np.uint64(32)
        pairs = np.union1d(
            pairs, np.concatenate([later | order[heads[follows]], later | order[follows - 1]])
        )
    return pairs


def _list_candidates(numbers: Numbers, keys: Hashes) -> Iterator[tuple[int, Numbers]]:
    """Yield places in `numbers`, ascending, each with the earlier places that may be alike."""
    pairs = find_candidates(keys[numbers])
    places, starts = np.unique(pairs >> np.uint64(32), return_index=True)
    earlier = (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)
    parts = np.split(earlier, starts[1:])
    for place, part in zip(places, parts, strict=False):
        yield int(place), part


def make_comparison(spool: Spool, scheme: Scheme) -> Callable[[int, int], float]:
    """Return what measures how alike two spooled documents are."""

    @lru_cache(maxsize=COMPARED_DOCUMENTS)
    def load(number: int) -> Hashes:
        return list_sequences(spool.read_text(number), scheme)

    if scheme.similarity == 0.0:
        return lambda one, other: 1.0
    return lambda one, other: measure_similarity(load(one), load(other))


def _drop(spool: Spool, numbers: Numbers, originals: Numbers, step: str) -> tuple[Numbers, Tally]:
    tally = Tally(step)
    stays = originals == numbers
    dropped, before = numbers[~stays], originals[~stays]
    tally.documents_in, tally.documents_out = len(numbers), int(stays.sum())
    tally.characters_in = int(spool.lengths[numbers].sum())
    tally.characters_out = int(spool.lengths[numbers[stays]].sum())
    examples = zip(dropped[:MAX_EXAMPLES], before[:MAX_EXAMPLES], strict=True)
    for number, original in examples:
        place, first = (document.place for document in spool.read([number, original]))
        tally.count_rule(place, "duplicate", f"of {first}")
    if len(dropped):
        tally.counts["duplicate"] = len(dropped)
    return numbers[stays], tally
