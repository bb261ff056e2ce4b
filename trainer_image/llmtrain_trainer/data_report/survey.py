"""Counts of documents on their way to the tokenizer, and a sample of them.

Below: `preparation.splits`. Above: `prepare` lets its pieces pass through here; `publishing` makes
the report of what was seen.

Memory is bounded whatever the data: counts, and the beginnings of the documents with the lowest
hashes, which are the same ones in whatever order the documents come.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace

from llmtrain_api.data import DataSpec, SplitMethod
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.splits import Part, Piece
from llmtrain_trainer.tokenizer.marks import show_text

SAMPLE_DOCUMENTS = 2000
SAMPLE_CHARACTERS = 4000
"""Of each document of the sample, its beginning: 8 million characters in all."""

MAX_LABELS = 1000
"""Labels that are counted one by one; more are not labels but names."""

OTHER_LABELS = "(others)"


class Survey:
    """What passed by."""

    def __init__(self, data: DataSpec, sample_documents: int = SAMPLE_DOCUMENTS) -> None:
        """Survey the documents of a recipe; keep a sample of `sample_documents`."""
        self._data = data
        self._size = sample_documents
        self._heap: list[tuple[int, int, str, Document]] = []
        self._seen = 0
        self.documents: Counter[int] = Counter()
        """Documents by source."""

        self.characters: Counter[int] = Counter()
        """Characters by source."""

        self.labels: defaultdict[Part, Counter[str]] = defaultdict(Counter)

    def watch(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Yield the pieces, and count them."""
        last: Document | None = None
        for piece in pieces:
            document = piece.document
            # The tail split makes several pieces of one document, one after the other.
            if document is not last:
                self.documents[document.source] += 1
                self._sample(document)
            last = document
            self.characters[document.source] += len(piece.text)
            counts = self.labels[piece.part]
            for label in document.facts.labels or filter(None, [self.read_label(document)]):
                counts[label if label in counts or len(counts) < MAX_LABELS else OTHER_LABELS] += 1
            yield piece

    def read_label(self, document: Document) -> str:
        """Return the label of a document, or its labels as one text; empty: it has none."""
        if document.facts.labels:
            return ", ".join(document.facts.labels)
        is_split_by = self._data.split.method is SplitMethod.STRATIFIED
        return document.facts.label or (document.key if is_split_by else "")

    @property
    def sample(self) -> list[Document]:
        """Beginnings of the documents with the lowest hashes, the lowest first."""
        return [document for *_, document in sorted(self._heap, reverse=True)]

    def _sample(self, document: Document) -> None:
        digest = hashlib.blake2b(document.text.encode(), digest_size=8, person=b"survey").digest()
        draw = -int.from_bytes(digest)
        if len(self._heap) == self._size and draw <= self._heap[0][0]:
            return
        self._seen += 1
        short = replace(document, text=show_text(document.text[:SAMPLE_CHARACTERS]))
        # The count keeps documents of one hash, which are equal, from being compared.
        entry = (draw, -self._seen, document.place, short)
        push = heapq.heappush if len(self._heap) < self._size else heapq.heapreplace
        push(self._heap, entry)
