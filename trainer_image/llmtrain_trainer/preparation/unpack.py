"""Compressed sources: gz, zst and zip as streams, with a bound on what may come out of them.

Below: the decoders of Python and of Arrow. Above: `readers` reads members without knowing how
they were packed.

A few kilobytes can unpack to petabytes; the bound ends that with a message, not with a full disk.
"""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, cast

from llmtrain_trainer.failures import DataError

MAX_RATIO = 200
"""Bytes that may come out for each packed byte; logs, which repeat themselves, reach 50."""

FREE_BYTES = 64 * 1024 * 1024
"""What comes out of any file, whatever its size."""

BUFFER_BYTES = 256 * 1024

PACKED_SUFFIXES = (".gz", ".zst", ".zip")

DECODER_ERRORS = (
    EOFError,
    IndexError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What decoders raise on damaged input; RuntimeError is zip's word for a password, and IndexError
what it makes of a member without a name."""


def is_packed(name: str) -> bool:
    """Return whether a file of this name has to be unpacked."""
    return name.lower().endswith(PACKED_SUFFIXES)


def strip_packing(name: str) -> str:
    """Return a name in small letters without the endings that say how a file is packed."""
    for suffix in PACKED_SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def limit_unpacked(path: Path) -> int:
    """Return how many bytes may come out of a file."""
    return FREE_BYTES + MAX_RATIO * path.stat().st_size


def explain_bomb(uri: str) -> DataError:
    """Return the failure of a file out of which more comes."""
    return DataError(
        f"{uri} unpacks to more than {MAX_RATIO} times its size",
        reason="ArchiveTooLarge",
        next_step="if it is meant to, upload it unpacked or in smaller parts",
    )


def open_members(path: Path, uri: str) -> Iterator[tuple[str, BinaryIO]]:
    """Yield every file in a source file as its name and a stream of its bytes.

    What is no zip is its only member. Those of a zip are named s3://bucket/a.zip!member.
    A stream is good until the next one is asked for.

    Args:
        path: the downloaded file.
        uri: its name, whose ending says how it is packed.

    Raises:
        DataError: where an archive is damaged or unpacks to too much; the streams raise it too.
    """
    name = uri.lower()
    limit = limit_unpacked(path)
    if name.endswith(".gz"):
        with gzip.open(path, "rb") as unpacked:
            yield uri, _guard(cast("IO[bytes]", unpacked), uri, limit)
    elif name.endswith(".zst"):
        yield uri, _guard(_open_zst(path), uri, limit)
    elif name.endswith(".zip"):
        yield from _open_zip(path, uri, limit)
    else:
        with path.open("rb") as file:
            yield uri, file


class _Guard(io.RawIOBase):
    """Counts what comes out of a decoder, and gives its errors a name."""

    def __init__(self, unpacked: IO[bytes], uri: str, limit: int) -> None:
        self._unpacked = unpacked
        self._uri = uri
        self._left = limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        try:
            data = self._unpacked.read(len(buffer))
        except DECODER_ERRORS as error:
            raise _explain_damage(self._uri, error) from None
        self._left -= len(data)
        if self._left < 0:
            raise explain_bomb(self._uri)
        buffer[: len(data)] = data
        return len(data)


def _guard(unpacked: IO[bytes], uri: str, limit: int) -> BinaryIO:
    return io.BufferedReader(cast("io.RawIOBase", _Guard(unpacked, uri, limit)), BUFFER_BYTES)


def _open_zst(path: Path) -> BinaryIO:
    from pyarrow import input_stream  # a tenth of a second that most sources do not need

    stream: BinaryIO = input_stream(str(path), compression="zstd")
    return stream


def _open_zip(path: Path, uri: str, limit: int) -> Iterator[tuple[str, BinaryIO]]:
    try:
        archive = zipfile.ZipFile(path)
    except DECODER_ERRORS as error:
        raise _explain_damage(uri, error) from None
    with archive:
        for member in sorted(archive.infolist(), key=lambda member: member.filename):
            try:
                if member.is_dir():
                    continue
                unpacked = archive.open(member)
            except DECODER_ERRORS as error:
                raise _explain_damage(uri, error) from None
            with unpacked:
                yield f"{uri}!{member.filename}", _guard(unpacked, uri, limit)
            limit -= member.file_size


def _explain_damage(uri: str, error: BaseException) -> DataError:
    return DataError(
        f"{uri} cannot be unpacked: {error or type(error).__name__}",
        reason="ArchiveUnreadable",
        next_step="pack it anew, without a password, and upload it again",
    )
