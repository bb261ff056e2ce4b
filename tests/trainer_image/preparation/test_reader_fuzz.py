"""Whatever bytes a source has, they are read or refused by a named error, soon.

Found by it and what led to it: an Arrow file that asks for more memory than there is, a Parquet
column whose name is no text, a zip member without a name, pages that take minutes to parse.
"""

from __future__ import annotations

import gzip
import io
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from testbed.source_files import CSV, FILES, pack_zip
from testbed.source_files import read_or_refuse as read_without_limit

LIMIT_SECONDS = 20
"""For a few hundred bytes; they take milliseconds on an idle machine."""

Change = tuple[int, int, bytes]
"""Where, how many bytes are taken out there, and what is put in."""

CHANGES = st.lists(
    st.tuples(
        st.integers(0, 2**16),
        st.integers(0, 8),
        st.binary(max_size=8)
        | st.sampled_from([b"\xff" * 4, bytes(8), b"\xff\xff\xff\x7f", b'"', b"\n", b"[" * 2000]),
    ),
    min_size=1,
    max_size=4,
)


def change_bytes(content: bytes, changes: list[Change]) -> bytes:
    for place, removed, added in changes:
        start = place % (len(content) + 1)
        content = content[:start] + added + content[start + removed :]
    return content


def read_or_refuse(folder: Path, name: str, content: bytes) -> str:
    with limit_time():
        return read_without_limit(folder, name, content)


@contextmanager
def limit_time() -> Iterator[None]:
    def stop(*arguments: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


BOUNDED = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)


@pytest.mark.parametrize("name", FILES)
@given(changes=CHANGES)
@BOUNDED
def test_changed_files_are_read_or_refused(
    tmp_path: Path, name: str, changes: list[Change]
) -> None:
    read_or_refuse(tmp_path, name, change_bytes(FILES[name], changes))


@pytest.mark.parametrize("name", FILES)
@given(content=st.binary(max_size=300) | st.text('[]{}":,\\\n textu0é<>&;\ud7ff').map(str.encode))
@BOUNDED
def test_any_bytes_are_read_or_refused(tmp_path: Path, name: str, content: bytes) -> None:
    read_or_refuse(tmp_path, name, content)


def make_dictionary_bomb() -> bytes:
    """A file whose every row is the same long text, kept once."""
    text = pa.array(["x" * 1_000_000])
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 200, pa.int32()), text)
    sink = io.BytesIO()
    parquet.write_table(pa.table({"text": column.cast(pa.string())}), sink, compression="zstd")
    return sink.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("bomb.parquet", make_dictionary_bomb(), "ArchiveTooLarge"),
        ("bomb.txt.gz", gzip.compress(bytes(80 << 20), mtime=0), "ArchiveTooLarge"),
        ("bomb.zip", pack_zip({"a.txt": bytes(80 << 20)}), "ArchiveTooLarge"),
        ("deep.html", b"<div>" * 100_000 + b"text", ""),
        ("deep.json", b"[" * 1_000_000, "DocumentInvalid"),
        ("quadratic.html", b"<meta charset=punycode>" + b"\xff" + b"a" * 10_000_000, ""),
        ("half.html", b"<meta charset=unicode_escape>\xff\\ud800", ""),
        ("mixed.csv", CSV + "3,é".encode("latin-1"), "EncodingInvalid"),
        ("mixed.json", b'[{"text": "\xc3\xa4"}, {"text": "\xe4"}]', "EncodingInvalid"),
    ],
)
def test_bombs_and_mixed_encodings_have_their_reasons(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    assert read_or_refuse(tmp_path, name, content) == reason
