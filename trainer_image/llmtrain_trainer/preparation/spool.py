"""Documents on the local disk, between the pass that reads them and those that use them.

Below: the file system. Above: `prepare`.

Only a few bytes for each document stay in memory, so that what can be prepared is bounded by the
disk.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

from llmtrain_trainer.preparation.document import Document

BUFFER_BYTES = 1024 * 1024


class Spool:
    """Documents, numbered in the order in which they were appended."""

    def __init__(self, path: Path) -> None:
        """Keep them in the file `path`."""
        self._path = path
        self._file = path.open("wb", buffering=BUFFER_BYTES)
        self._ends = array("Q", [0])
        """Where each place and each text ends, in turn."""
        self._sources = array("H")

    def __len__(self) -> int:
        """Return how many documents there are."""
        return len(self._sources)

    def append(self, document: Document) -> None:
        """Add a document."""
        for part in (document.place, document.text):
            data = part.encode()
            self._file.write(data)
            self._ends.append(self._ends[-1] + len(data))
        self._sources.append(document.source)

    def read(self, numbers: Iterable[int] | None = None) -> Iterator[Document]:
        """Yield the documents of these numbers, or all of them, in order."""
        self._file.flush()
        with self._path.open("rb", buffering=BUFFER_BYTES) as file:
            for number in range(len(self)) if numbers is None else numbers:
                start, middle, end = self._ends[2 * number : 2 * number + 3]
                if file.tell() != start:
                    file.seek(start)
                place = file.read(middle - start).decode()
                yield Document(file.read(end - middle).decode(), place, self._sources[number])

    def close(self) -> None:
        """Delete the file."""
        self._file.close()
        self._path.unlink()
