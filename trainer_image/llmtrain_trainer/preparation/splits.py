"""Documents divided over training, validation and test.

Below: `document`. Above: `prepare`.

By the hash of its text or group, a document's part follows from the document alone, so that it
stays where it is when a source grows. By label or time it follows from all documents together.
Validation takes the lowest hashes and test the highest ones, so that a test part of any size moves
no document between training and validation.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from llmtrain_api.data import Split, SplitMethod
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.preparation.document import Document

BATCH_CHARACTERS = 1024 * 1024
"""Text that is encoded at once; its tokens take some hundred bytes each while that lasts, which the
allocator of C handles a fifth slower in larger batches."""


class Part(IntEnum):
    """Where a document goes; the name in small letters is that of its files."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2


Parts = NDArray[np.uint8]
"""A `Part` for each document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A document, or what of it is in one part of the split."""

    text: str
    part: Part

    document: Document
    """What it was made of."""

    copies: int = 1
    """How often it is written."""

    place: int = 0
    """Of its document in the corpus."""


def choose_held_out(documents: Iterable[Document], split: Split) -> Parts | None:
    """Return the part of each document [documents]; None where that follows from each alone.

    Raises:
        DataError: where the time of a document is none.
    """
    if split.method is SplitMethod.STRATIFIED:
        return _choose_of_each_label(documents, split)
    if split.method is SplitMethod.TIME:
        return _choose_newest(documents, split)
    return None


def split_documents(
    documents: Iterable[Document],
    split: Split,
    weights: list[float],
    held_out: Parts | None = None,
) -> Iterator[Piece]:
    """Divide documents over the parts; pieces come in the order of the text.

    Args:
        documents: in their order.
        split: how they are divided.
        weights: how often documents of each source occur in the training split.
        held_out: what `choose_held_out` said of the same documents.
    """
    for number, document in enumerate(documents):
        text = document.text
        draws = hashlib.sha256(text.encode()).digest()
        copies = count_copies(weights[document.source], read_share(draws[8:16]))
        if split.method is SplitMethod.TAIL:
            yield from _cut_text(document, split, copies)
            continue
        if held_out is not None:
            part = Part(held_out[number])
        elif split.method is SplitMethod.GROUP:
            part = choose_part(draw_share(document.key), split)
        else:
            part = choose_part(read_share(draws[:8]), split)
        if part is not Part.TRAIN or copies:
            yield Piece(
                text=text,
                part=part,
                document=document,
                copies=copies if part is Part.TRAIN else 1,
                place=number,
            )


def choose_part(share: float, split: Split) -> Part:
    """Return the part that a uniform number in [0, 1) falls into."""
    if share < split.validation_fraction:
        return Part.VALIDATION
    return Part.TEST if share >= 1.0 - (split.test_fraction or 0.0) else Part.TRAIN


def sample_pieces(pieces: Iterable[Piece], share: float) -> Iterator[str]:
    """Yield the text of about a share of the training pieces, chosen by its hash."""
    for piece in pieces:
        if piece.part is not Part.TRAIN:
            continue
        digest = hashlib.sha256(piece.text.encode()).digest()
        if read_share(digest[16:24]) < share:
            yield piece.text


def draw_share(text: str) -> float:
    """Return a number in [0, 1) that follows from a text, uniform over texts."""
    return read_share(hashlib.sha256(text.encode()).digest()[:8])


def _cut_text(document: Document, split: Split, copies: int) -> Iterator[Piece]:
    """Yield the beginning of a document for training, then what is held out of its end."""
    text = document.text
    end = len(text) - round(len(text) * (split.test_fraction or 0.0))
    cut = max(0, end - round(len(text) * split.validation_fraction))
    if cut > 0 and copies:
        yield Piece(text=text[:cut], part=Part.TRAIN, document=document, copies=copies)
    for part, start, stop in ((Part.VALIDATION, cut, end), (Part.TEST, end, len(text))):
        if start < stop:
            yield Piece(text=text[start:stop], part=part, document=document)


def _choose_of_each_label(documents: Iterable[Document], split: Split) -> Parts:
    """Hold out the same share of each label, at least one document of those with several."""
    labels: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    count = 0
    for count, document in enumerate(documents, start=1):
        labels[document.key].append((draw_share(document.text), count - 1))
    parts = np.zeros(count, dtype=np.uint8)
    for members in labels.values():
        numbers = [number for _, number in sorted(members)]
        share = max(round(split.validation_fraction * len(members)), int(len(members) > 1))
        parts[numbers[:share]] = Part.VALIDATION
        if split.test_fraction is not None:
            # Never all that is left: a label that is not trained on cannot be told.
            most = max(len(members) - share - 1, 0)
            share = min(max(round(split.test_fraction * len(members)), 1), most)
            parts[numbers[len(numbers) - share :]] = Part.TEST
    return parts


def _choose_newest(documents: Iterable[Document], split: Split) -> Parts:
    """Hold out the newest documents for test and those before them for validation.

    Of those of one time it is by their hash.
    """
    ages = sorted(
        (_read_time(document), draw_share(document.text), number)
        for number, document in enumerate(documents)
    )
    parts = np.zeros(len(ages), dtype=np.uint8)
    numbers = np.array([number for _, _, number in ages], dtype=np.int64)
    end = len(ages) - round((split.test_fraction or 0.0) * len(ages))
    cut = max(0, end - round(split.validation_fraction * len(ages)))
    parts[numbers[cut:end]] = Part.VALIDATION
    parts[numbers[end:]] = Part.TEST
    return parts


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


def read_share(draw: bytes) -> float:
    """Return a number that is uniform in [0, 1)."""
    return int.from_bytes(draw) / 2**64
