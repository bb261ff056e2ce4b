"""Documents that were there before, exactly or nearly; the first one of each kind stays.

Below: `spool`, `minhash`, `workers`. Above: `corpus`.

What is compared is what was spooled: one number in memory for each document and key at a time, so
that a band of keys of a million documents takes 8 MB. A near-duplicate is judged against the
document that stays, so that a chain of small differences does not end at a document that has
nothing in common with it.

What stays of some documents depends on no others than those that pairs of candidates connect them
with. So such clusters are judged by several processes, and what they find is that of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from llmtrain_trainer.linux import count_usable_cores
from llmtrain_trainer.preparation.minhash import Scheme, list_sequences, measure_similarity
from llmtrain_trainer.preparation.spool import Spool, TextPlaces
from llmtrain_trainer.preparation.tally import MAX_EXAMPLES, Tally
from llmtrain_trainer.preparation.words import Hashes
from llmtrain_trainer.preparation.workers import open_workers

Numbers = NDArray[np.int64]
"""Numbers of spooled documents, ascending."""

COMPARED_DOCUMENTS = 4096
"""Whose word sequences are kept in memory while pairs are compared."""

BATCH_PAIRS = 512
"""That a process judges at once: a twentieth of a second."""

PROCESS_PAIRS = 8 * BATCH_PAIRS
"""Of all: as many are worth the start of a process."""

Pairs = NDArray[np.int64]
"""Numbers of documents that may be alike, the later one and the earlier one [pairs, 2]."""


@dataclass(frozen=True, slots=True)
class Clusters:
    """Pairs of some clusters, those of one in a row and in the order of their documents."""

    pairs: Pairs
    texts: TextPlaces


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
    pairs = find_candidates(keys[numbers])
    num_processes = max(1, min(count_usable_cores(), len(pairs) // PROCESS_PAIRS))
    clusters = (
        Clusters(part, spool.locate_texts(np.unique(part).tolist()))
        for part in divide_clusters(numbers, pairs)
    )
    originals = numbers.copy()
    with open_workers(partial(find_originals, scheme=scheme), num_processes) as run:
        for found in run(clusters):
            originals[np.searchsorted(numbers, list(found))] = list(found.values())
    return _drop(spool, numbers, originals, "near duplicates")


def find_originals(clusters: Clusters, scheme: Scheme) -> dict[int, int]:
    """Return the documents that are nearly an earlier one, each with the one that stays."""
    measure = make_comparison(clusters.texts.read, scheme)
    originals: dict[int, int] = {}
    tried: set[tuple[int, int]] = set()
    for number, candidate in clusters.pairs.tolist():
        original = originals.get(candidate, candidate)
        if number in originals or (number, original) in tried:
            continue
        tried.add((number, original))
        if measure(original, number) >= scheme.similarity:
            originals[number] = original
    return originals


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


def divide_clusters(numbers: Numbers, pairs: NDArray[np.uint64]) -> Iterator[Pairs]:
    """Yield the pairs by clusters, about `BATCH_PAIRS` at once but for one larger cluster.

    Args:
        numbers: of the documents.
        pairs: of places in `numbers`, as `find_candidates` gives them.
    """
    if len(pairs) == 0:
        return
    # A fifth of a second, for those who have candidates.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    later = (pairs >> np.uint64(32)).astype(np.int64)
    earlier = (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)
    graph = coo_array((np.ones(len(pairs), np.bool_), (later, earlier)), (len(numbers),) * 2)
    _, clusters = connected_components(graph, directed=False)
    cluster = clusters[later]
    order = np.argsort(cluster, kind="stable")  # within a cluster as they were
    ordered = np.stack([numbers[later[order]], numbers[earlier[order]]], axis=1)
    begins = np.flatnonzero(np.diff(cluster[order])) + 1
    wanted = np.searchsorted(begins, np.arange(BATCH_PAIRS, len(pairs), BATCH_PAIRS))
    cuts = np.unique(begins[wanted[wanted < len(begins)]])
    yield from np.split(ordered, cuts)


def make_comparison(read_text: Callable[[int], str], scheme: Scheme) -> Callable[[int, int], float]:
    """Return what measures how alike two documents are, given what reads one's text."""

    @lru_cache(maxsize=COMPARED_DOCUMENTS)
    def load(number: int) -> Hashes:
        return list_sequences(read_text(number), scheme)

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
