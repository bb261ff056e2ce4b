"""Documents that give away a set to evaluate on.

Below: `words`, `spool`. Above: `prepare`.

A document is left out where it has thirteen words in a row in common with a document of the set
(Brown et al. 2020, Language Models are Few-Shot Learners, appendix C). A document of the set that
is shorter counts where another one ends with it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.refine import divide_documents
from llmtrain_trainer.preparation.spool import Spool
from llmtrain_trainer.preparation.tally import Tally
from llmtrain_trainer.preparation.words import Hashes, hash_sequences, hash_words

SEQUENCE_WORDS = 13


class Contamination:
    """The word sequences of the sets to evaluate on."""

    def __init__(self, documents: Iterable[Document]) -> None:
        """Take in the documents of the sets."""
        self._known: Hashes = np.empty(0, dtype=np.uint64)
        for batch in divide_documents(documents):
            words, counts = hash_words([document.text for document in batch])
            sequences = hash_sequences(words, counts, SEQUENCE_WORDS)
            self._known = np.union1d(self._known, sequences[_find_whole(counts)])

    def judge(self, texts: list[str]) -> NDArray[np.int64]:
        """Return how many sequences each text has in common with the sets [texts]."""
        words, counts = hash_words(texts)
        if len(self._known) == 0 or len(words) == 0:
            return np.zeros(len(texts), dtype=np.int64)
        sequences = hash_sequences(words, counts, SEQUENCE_WORDS)
        place = np.minimum(np.searchsorted(self._known, sequences), len(self._known) - 1)
        is_known = self._known[place] == sequences
        text = np.repeat(np.arange(len(texts)), counts)
        return np.bincount(text[is_known], minlength=len(texts)).astype(np.int64)


def _find_whole(counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which sequences lie within their document, or are all of a short one."""
    ends = np.repeat(np.cumsum(counts), counts)
    starts = ends - np.repeat(counts, counts)
    place: NDArray[np.int64] = np.arange(len(ends))
    whole: NDArray[np.bool_] = (place + SEQUENCE_WORDS <= ends) | (place == starts)
    return whole


def drop_contaminated(
    spool: Spool, numbers: NDArray[np.int64], known: Contamination
) -> tuple[NDArray[np.int64], Tally]:
    """Return the documents that have nothing in common with the sets."""
    tally = Tally("contamination")
    kept: list[int] = []
    number = iter(numbers.tolist())
    for batch in divide_documents(spool.read(numbers)):
        common = known.judge([document.text for document in batch])
        for document, count in zip(batch, common.tolist(), strict=True):
            tally.count_text(document.text, None if count else document.text)
            this = next(number)
            if count:
                measure = f"{count} sequences of {SEQUENCE_WORDS} words"
                tally.count_rule(document.place, "in a set to evaluate on", measure)
            else:
                kept.append(this)
    return np.array(kept, dtype=np.int64), tally
