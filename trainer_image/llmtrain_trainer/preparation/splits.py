"""Documents divided over training and held-out text.

Below: `document`. Above: `prepare`.

By the hash of its text or group, a document's side follows from the document alone, so that it
stays where it is when a source grows. By label or time it follows from all documents together.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from llmtrain_api.data import Split, SplitMethod
from llmtrain_trainer.failures import DataError
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


def choose_held_out(documents: Iterable[Document], split: Split) -> NDArray[np.bool_] | None:
    """Return which documents are held out [documents]; None where that follows from each alone.

    Raises:
        DataError: where the time of a document is none.
    """
    if split.method is SplitMethod.STRATIFIED:
        return _choose_of_each_label(documents, split.validation_fraction)
    if split.method is SplitMethod.TIME:
        return _choose_newest(documents, split.validation_fraction)
    return None


def split_documents(
    documents: Iterable[Document],
    split: Split,
    weights: list[float],
    held_out: NDArray[np.bool_] | None = None,
) -> Iterator[Piece]:
    """Divide documents over the two sides; pieces come in the order of the text.

    Args:
        documents: in their order.
        split: how they are divided.
        weights: how often documents of each source occur in the training split.
        held_out: what `choose_held_out` said of the same documents.
    """
    for number, document in enumerate(documents):
        text = document.text
        draws = hashlib.sha256(text.encode()).digest()
        copies = count_copies(weights[document.source], _read_share(draws[8:16]))
        if split.method is SplitMethod.TAIL:
            cut = len(text) - round(len(text) * split.validation_fraction)
            if cut > 0 and copies:
                yield Piece(text=text[:cut], is_validation=False, copies=copies)
            if cut < len(text):
                yield Piece(text=text[cut:], is_validation=True)
            continue
        if held_out is not None:
            is_validation = bool(held_out[number])
        elif split.method is SplitMethod.GROUP:
            is_validation = draw_share(document.key) < split.validation_fraction
        else:
            is_validation = _read_share(draws[:8]) < split.validation_fraction
        if is_validation or copies:
            yield Piece(
                text=text, is_validation=is_validation, copies=1 if is_validation else copies
            )


def sample_pieces(pieces: Iterable[Piece], share: float) -> Iterator[str]:
    """Yield the text of about a share of the training pieces, chosen by its hash."""
    for piece in pieces:
        if piece.is_validation:
            continue
        digest = hashlib.sha256(piece.text.encode()).digest()
        if _read_share(digest[16:24]) < share:
            yield piece.text


def draw_share(text: str) -> float:
    """Return a number in [0, 1) that follows from a text, uniform over texts."""
    return _read_share(hashlib.sha256(text.encode()).digest()[:8])


def _choose_of_each_label(documents: Iterable[Document], fraction: float) -> NDArray[np.bool_]:
    """Hold out the same share of each label, at least one document of those with several."""
    labels: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    count = 0
    for count, document in enumerate(documents, start=1):
        labels[document.key].append((draw_share(document.text), count - 1))
    held_out = np.zeros(count, dtype=np.bool_)
    for members in labels.values():
        share = max(round(fraction * len(members)), 1 if len(members) > 1 else 0)
        held_out[[number for _, number in sorted(members)[:share]]] = True
    return held_out


def _choose_newest(documents: Iterable[Document], fraction: float) -> NDArray[np.bool_]:
    """Hold out the newest documents; of those of one time, by their hash."""
    ages = sorted(
        (_read_time(document), draw_share(document.text), number)
        for number, document in enumerate(documents)
    )
    held_out = np.zeros(len(ages), dtype=np.bool_)
    newest = ages[len(ages) - round(fraction * len(ages)) :]
    held_out[[number for _, _, number in newest]] = True
    return held_out


def _read_time(document: Document) -> float:
    """Return a document's time in Unix seconds."""
    try:
        return float(document.key)
    except ValueError:
        pass
    try:
        time = datetime.fromisoformat(document.key)
    except ValueError:
        raise DataError(
            f"{document.place}: the field to split by is no time",
            reason="DocumentInvalid",
            next_step="write it as seconds since 1970, or as 2026-11-24T12:00:00",
        ) from None
    return time.replace(tzinfo=time.tzinfo or UTC).timestamp()


def count_copies(weight: float, share: float) -> int:
    """Return how often a document of a `weight` occurs, so that the mean is the weight.

    Args:
        weight: how often documents of its source are to occur.
        share: of the document, uniform in [0, 1).
    """
    return int(weight + share)


def divide_into_batches(
    pieces: Iterable[Piece], characters: int = BATCH_CHARACTERS
) -> Iterator[list[Piece]]:
    """Gather pieces until a batch holds about so many characters."""
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _read_share(draw: bytes) -> float:
    """Return a number that is uniform in [0, 1)."""
    return int.from_bytes(draw) / 2**64
