"""Counts of documents on their way to the tokenizer.

Below: `preparation.splits`. Above: `prepare` lets its pieces pass through here; `publishing` makes
the report of what was seen.

Memory is bounded whatever the data.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from llmtrain_api.data import DataSpec, SplitMethod
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.splits import Part, Piece

MAX_LABELS = 1000
"""Labels that are counted one by one; more are not labels but names."""

OTHER_LABELS = "(others)"


class Survey:
    """What passed by."""

    def __init__(self, data: DataSpec) -> None:
        """Survey the documents of a recipe."""
        self._data = data
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
            last = document
            self.characters[document.source] += len(piece.text)
            counts = self.labels[piece.part]
            for label in document.facts.labels or filter(None, [read_label(document, self._data)]):
                counts[label if label in counts or len(counts) < MAX_LABELS else OTHER_LABELS] += 1
            yield piece


def read_label(document: Document, data: DataSpec) -> str:
    """Return the label of a document, or its labels as one text; empty: it has none."""
    if document.facts.labels:
        return ", ".join(document.facts.labels)
    is_split_by = data.split.method is SplitMethod.STRATIFIED
    return document.facts.label or (document.key if is_split_by else "")
