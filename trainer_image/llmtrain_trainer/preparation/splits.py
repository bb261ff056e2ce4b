"""Documents divided over training and held-out text.

Below: `document`. Above: `prepare`.

A side follows from the document alone, so that it stays where it is when a source grows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from llmtrain_api.data import Split, SplitMethod
from llmtrain_trainer.preparation.document import Document

BATCH_CHARACTERS = 4 * 1024 * 1024
"""Text that is encoded at once; its tokens take some hundred bytes each while that lasts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A document, or the part of it that is on one side of the split."""

    text: str
    is_validation: bool

    copies: int = 1
    """How often it is written."""


def split_documents(
    documents: Iterable[Document], split: Split, weights: list[float]
) -> Iterator[Piece]:
    """Divide documents over the two sides; pieces come in the order of the text.

    Args:
        documents: in their order.
        split: how they are divided.
        weights: how often documents of each source occur in the training split.
    """
    for document in documents:
        text = document.text
        draws = hashlib.sha256(text.encode()).digest()
        copies = count_copies(weights[document.source], _read_share(draws[8:16]))
        if split.method is SplitMethod.DOCUMENT:
            if _read_share(draws[:8]) < split.validation_fraction:
                yield Piece(text=text, is_validation=True)
            elif copies:
                yield Piece(text=text, is_validation=False, copies=copies)
        else:
            cut = len(text) - round(len(text) * split.validation_fraction)
            if cut > 0 and copies:
                yield Piece(text=text[:cut], is_validation=False, copies=copies)
            if cut < len(text):
                yield Piece(text=text[cut:], is_validation=True)


def sample_documents(documents: Iterable[Document], share: float) -> Iterator[Document]:
    """Yield about a share of the documents, chosen by the hash of their text."""
    for document in documents:
        digest = hashlib.sha256(document.text.encode()).digest()
        if _read_share(digest[16:24]) < share:
            yield document


def count_copies(weight: float, share: float) -> int:
    """Return how often a document of a `weight` occurs, so that the mean is the weight.

    Args:
        weight: how often documents of its source are to occur.
        share: of the document, uniform in [0, 1).
    """
    return int(weight + share)


def divide_into_batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Gather pieces until a batch holds about `BATCH_CHARACTERS`."""
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _read_share(draw: bytes) -> float:
    """Return a number that is uniform in [0, 1)."""
    return int.from_bytes(draw) / 2**64
