"""Documents left out of too much text: those unlike the others, and those that say nothing new.

Below: `spool`, `words`. Above: `corpus`.

How well a text compresses tells how much there is in it (Yin et al. 2024, Entropy Law): boilerplate
compresses far better than other texts of its length, random letters far worse.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from llmtrain_trainer.preparation.refine import divide_documents
from llmtrain_trainer.preparation.spool import Spool
from llmtrain_trainer.preparation.tally import Tally
from llmtrain_trainer.preparation.words import Hashes, hash_sequences, hash_words

Numbers = NDArray[np.int64]
"""Numbers of spooled documents, ascending."""

COMPRESSION_LEVEL = 1
COMPRESSED_BYTES = 64 * 1024
"""Of each document: a longer one is told by its beginning."""

SEQUENCE_WORDS = 5

SEEN_BITS = 1 << 30
"""128 MiB. A hundred million sequences set a tenth of the bits, so that a tenth of the new ones are
taken for known; a billion, two thirds."""


def drop_unusual(spool: Spool, numbers: Numbers, share: float) -> tuple[Numbers, Tally]:
    """Return a share of the documents: those that compress most like others of their length.

    Args:
        spool: where the documents are.
        numbers: the documents to look at.
        share: of the documents of each length, by powers of two.
    """
    ratios = np.array([_measure_ratio(text) for text in _read_texts(spool, numbers)])
    lengths = spool.lengths[numbers]
    classes = np.frexp(lengths.astype(np.float64))[1]
    stays = np.zeros(len(numbers), dtype=np.bool_)
    for number in np.unique(classes):
        members = np.flatnonzero(classes == number)
        distance = np.abs(ratios[members] - np.median(ratios[members]))
        order = members[np.argsort(distance, kind="stable")]
        stays[order[: max(1, round(share * len(members)))]] = True
    tally = _count("typical", spool, numbers, stays, "compresses unlike the others")
    return numbers[stays], tally


def drop_familiar(spool: Spool, numbers: Numbers, min_novelty: float) -> tuple[Numbers, Tally]:
    """Return the documents in which a share of the word sequences is new, in their order.

    Args:
        spool: where the documents are.
        numbers: the documents to look at, ascending.
        min_novelty: the least share of a document's sequences that no document kept before it has.
    """
    seen = np.zeros(SEEN_BITS // 8, dtype=np.uint8)
    stays = np.zeros(len(numbers), dtype=np.bool_)
    for place, sequences in enumerate(_list_sequences(spool, numbers)):
        where = sequences % np.uint64(SEEN_BITS)
        byte, bit = where >> np.uint64(3), np.uint8(1) << (where & np.uint64(7)).astype(np.uint8)
        is_known = (seen[byte] & bit) != 0
        if len(sequences) == 0 or 1.0 - is_known.mean() >= min_novelty:
            stays[place] = True
            np.bitwise_or.at(seen, byte, bit)
    tally = _count("diversity", spool, numbers, stays, "says little that is new")
    return numbers[stays], tally


def _measure_ratio(text: str) -> float:
    """Return the size of a text once it is compressed, as a share of what it was."""
    data = text.encode()[:COMPRESSED_BYTES]
    return len(zlib.compress(data, COMPRESSION_LEVEL)) / max(len(data), 1)


def _read_texts(spool: Spool, numbers: Numbers) -> Iterator[str]:
    return (document.text for document in spool.read(numbers))


def _list_sequences(spool: Spool, numbers: Numbers) -> Iterator[Hashes]:
    """Yield the word sequences of each document, each once."""
    for batch in divide_documents(spool.read(numbers)):
        words, counts = hash_words([document.text for document in batch])
        sequences = hash_sequences(words, counts, SEQUENCE_WORDS)
        for part in np.split(sequences, np.cumsum(counts)[:-1]):
            yield np.unique(part)


def _count(step: str, spool: Spool, numbers: Numbers, stays: NDArray[np.bool_], rule: str) -> Tally:
    lengths = spool.lengths[numbers]
    tally = Tally(step)
    tally.documents_in, tally.documents_out = len(numbers), int(stays.sum())
    tally.characters_in, tally.characters_out = int(lengths.sum()), int(lengths[stays].sum())
    if not stays.all():
        tally.counts[rule] = int((~stays).sum())
        tally.examples[rule] = []
    return tally
