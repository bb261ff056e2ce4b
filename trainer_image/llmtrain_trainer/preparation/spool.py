"""Documents on the local disk, between the pass that reads them and those that use them.

Below: the file system. Above: `prepare`.

Only a few bytes for each document stay in memory, so that what can be prepared is bounded by the
disk.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmtrain_trainer.dataset.facts import NO_FACTS, Facts
from llmtrain_trainer.preparation.document import Document

BUFFER_BYTES = 1024 * 1024

PARTS = 4
"""Of a document in the file: digest and place, key, facts, text."""

DIGEST_BYTES = 16
"""128 bits: no two texts will ever share a digest by chance."""


@dataclass(frozen=True, slots=True)
class TextPlaces:
    """Where some texts lie, for another process to read them."""

    path: Path

    bounds: dict[int, tuple[int, int]]
    """By number: the first byte of the text, and the one behind it."""

    def read(self, number: int) -> str:
        """Return one of the texts."""
        start, end = self.bounds[number]
        with self.path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), end - start, start).decode()


class Spool:
    """Documents, numbered in the order in which they were appended."""

    def __init__(self, path: Path) -> None:
        """Keep them in the file `path`."""
        self._path = path
        self._file = path.open("w+b", buffering=BUFFER_BYTES)
        self._ends = array("Q", [0])
        """Where each of the parts of each document ends, in turn."""
        self._sources = array("H")
        self._lengths = array("L")
        self._digests = bytearray()

    def __len__(self) -> int:
        """Return how many documents there are."""
        return len(self._sources)

    @property
    def digests(self) -> NDArray[Any]:
        """Digests of the texts, as opaque values that can be sorted [documents]."""
        return np.frombuffer(bytes(self._digests), dtype=f"S{DIGEST_BYTES}")

    @property
    def sources(self) -> NDArray[np.int64]:
        """Indices of the sources [documents]."""
        return np.array(self._sources, dtype=np.int64)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Characters of the texts [documents]."""
        return np.array(self._lengths, dtype=np.int64)

    def append(self, document: Document) -> None:
        """Add a document."""
        text = document.text.encode()
        # Most have no facts, so that they take no place.
        facts = "" if document.facts == NO_FACTS else json.dumps(asdict(document.facts))
        origin = f"{document.digest} {document.place}"
        for data in (origin.encode(), document.key.encode(), facts.encode(), text):
            self._file.write(data)
            self._ends.append(self._ends[-1] + len(data))
        self._sources.append(document.source)
        self._lengths.append(len(document.text))
        self._digests += hashlib.sha256(text).digest()[:DIGEST_BYTES]

    def read(self, numbers: Iterable[int] | None = None) -> Iterator[Document]:
        """Yield the documents of these numbers, or all of them, in order."""
        self._file.flush()
        with self._path.open("rb", buffering=BUFFER_BYTES) as file:
            for number in range(len(self)) if numbers is None else numbers:
                ends = self._ends[PARTS * number : PARTS * (number + 1) + 1]
                if file.tell() != ends[0]:
                    file.seek(ends[0])
                origin, key, facts, text = (
                    file.read(end - start).decode() for start, end in pairwise(ends)
                )
                said = Facts.load(json.loads(facts)) if facts else NO_FACTS
                digest, _, place = origin.partition(" ")
                yield Document(text, place, self._sources[number], key, said, digest)

    def read_text(self, number: int) -> str:
        """Return the text of one document, by nothing more than its own bytes."""
        self._file.flush()
        start, end = self._find_text(number)
        return os.pread(self._file.fileno(), end - start, start).decode()

    def locate_texts(self, numbers: Iterable[int]) -> TextPlaces:
        """Return where texts lie; what was appended before stays there until the spool closes."""
        self._file.flush()
        return TextPlaces(self._path, {number: self._find_text(number) for number in numbers})

    def _find_text(self, number: int) -> tuple[int, int]:
        start, end = self._ends[PARTS * number + PARTS - 1 : PARTS * (number + 1) + 1]
        return start, end

    def close(self) -> None:
        """Delete the file."""
        self._file.close()
        self._path.unlink()
