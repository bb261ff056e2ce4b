"""Source files divided into units of work, large ones by ranges of their bytes.

Below: `sources`, `formats`. Above: `reading`, whose units these are; `collect` reads them.

A line belongs to the portion in which it begins, wherever it ends. How many lines are before a
portion is not known while it is read: its places count from its own first line, until they are
shifted where the portions come together, or an error needs the true number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmtrain_trainer.dataset.shards import SourceObject
from llmtrain_trainer.preparation.formats import has_records_in_lines
from llmtrain_trainer.preparation.sources import (
    SourceFile,
    check_unchanged,
    describe_source,
    explain_change,
    fetch_source_file,
)
from llmtrain_trainer.store import ObjectMissingError

CHUNK_BYTES = 8 * 1024 * 1024

MAX_RECORD_BYTES = 256 * 1024 * 1024
"""Of a line: what is longer was not meant to be one."""


@dataclass(frozen=True, slots=True)
class Portion:
    """The lines of a file that begin at bytes from `start` to `end`, or the whole file."""

    file: SourceFile
    start: int
    end: int

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the file."""
        return self.end - self.start == self.file.stored.size

    @property
    def size(self) -> int:
        """Bytes, but for where lines begin and end."""
        return self.end - self.start

    def __str__(self) -> str:
        """Return what the log calls it."""
        uri = self.file.uri
        return uri if self.is_whole else f"{uri}, bytes {self.start} to {self.end}"


def take_whole(file: SourceFile) -> Portion:
    """Return all of a file."""
    return Portion(file, 0, file.stored.size)


def divide_files(files: list[SourceFile], unit_bytes: int) -> list[list[Portion]]:
    """Divide files, in their order, into units of at least `unit_bytes` but for the last.

    A unit is several whole files in a row, one file, or a portion of one.
    """
    units: list[list[Portion]] = []
    size = unit_bytes
    for file in files:
        total = file.stored.size
        count = total // unit_bytes if has_records_in_lines(file.source, file.uri) else 1
        if count > 1:
            cuts = [total * i // count for i in range(count + 1)]
            units.extend([Portion(file, cuts[i], cuts[i + 1])] for i in range(count))
            size = unit_bytes
            continue
        if size >= unit_bytes:
            units.append([])
            size = 0
        units[-1].append(take_whole(file))
        size += total
    return units


def fetch_portion(portion: Portion, path: Path) -> SourceObject | None:
    """Write the lines of a portion to the file `path`.

    Returns:
        What the dataset's manifest says of the file, where this is its beginning. All of a divided
        file is read for its digest then: seconds, of what takes many minutes to prepare.

    Raises:
        DataError: where the file is no longer what was found, or not what the manifest pins.
        StoreError: where the store fails.
    """
    if portion.is_whole:
        return fetch_source_file(portion.file, path)
    with path.open("wb") as lines:
        for chunk in iterate_lines(portion):
            lines.write(chunk)
    check_unchanged(portion.file)
    if portion.start > 0:
        return None
    digest = hashlib.sha256()
    for chunk in _read_range(portion.file, 0, portion.file.stored.size):
        digest.update(chunk)
    check_unchanged(portion.file)
    return describe_source(portion.file, digest.hexdigest())


def iterate_lines(portion: Portion) -> Iterator[bytes]:
    """Yield the bytes of the lines that begin in a portion; of one too long only a part."""
    is_within = portion.start == 0
    ends_line = True
    # The byte before tells whether a line begins with the first one.
    for data in _read_range(portion.file, max(portion.start - 1, 0), portion.end):
        chunk = data
        if not is_within:
            _, end, chunk = data.partition(b"\n")
            is_within = bool(end)
        if chunk:
            ends_line = chunk.endswith(b"\n")
            yield chunk
    if ends_line:
        return
    stop = min(portion.end + MAX_RECORD_BYTES + 1, portion.file.stored.size)
    for data in _read_range(portion.file, portion.end, stop):
        rest, end, _ = data.partition(b"\n")
        yield rest + end
        if end:
            return


def count_lines_before(portion: Portion) -> int:
    """Return how many lines of its file end before a portion's first line begins."""
    if portion.start == 0:
        return 0
    before = Portion(portion.file, 0, portion.start)
    return sum(chunk.count(b"\n") for chunk in iterate_lines(before))


def count_lines(path: Path) -> int:
    """Return how many lines a file has."""
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(CHUNK_BYTES), b""))


def shift_place(place: str, lines: int) -> str:
    """Return the place of a record in a file, s3://bucket/key:line, so many lines further on."""
    if lines == 0:
        return place
    name, _, number = place.rpartition(":")
    return f"{name}:{int(number) + lines}"


def _read_range(file: SourceFile, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes of a file from `start` to `end`; fewer where it has become shorter.

    Raises:
        DataError: where it is gone.
        StoreError: where the store fails.
    """
    while start < end:
        length = min(CHUNK_BYTES, end - start)
        try:
            data = file.store.read_bytes(
                file.stored.key, start=start, length=length, version=file.stored.version
            )
        except ObjectMissingError:
            raise explain_change(file) from None
        if not data:
            return
        yield data
        start += len(data)
