"""Whatever bytes a source has, they are read or refused by a named error, soon.

Found by it and what led to it: an Arrow file that asks for more memory than there is, a Parquet
column whose name is no text, a zip member without a name, pages that take minutes to parse.
"""

from __future__ import annotations

import gzip
import io
import json
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from llmtrain_api.run import StorageConfig
from llmtrain_api.sources import Source
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.readers import read_documents
from llmtrain_trainer.preparation.sources import find_source_files

LIMIT_SECONDS = 20
"""For a few hundred bytes; they take milliseconds on an idle machine."""

TEXTS = ["one", "zwei\nZeilen", 'a "b", c', "🙂ä"]
ROWS = [{"text": text, "id": number} for number, text in enumerate(TEXTS)]
COLUMNS = pa.Table.from_pylist(ROWS * 3)
HTML = "<html><head><meta charset=latin-1></head><body><p>ä<pre> b\n</pre><table><td>c</table>"


def write_arrow(open_writer: Callable[..., pa.RecordBatchFileWriter]) -> bytes:
    sink = io.BytesIO()
    with open_writer(sink, COLUMNS.schema) as writer:
        writer.write_table(COLUMNS, max_chunksize=5)
    return sink.getvalue()


def write_parquet(compression: str) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(COLUMNS, sink, compression=compression)
    return sink.getvalue()


def pack_zip(files: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return sink.getvalue()


def pack_zst(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CSV = b'id,text\n0,"one\ntwo"\n1,a\n2,"b""c"\n'

FILES = {
    "a.txt": "Zwölf\r\nZeilen".encode(),
    "a.html": HTML.encode("latin-1"),
    "a.jsonl": JSONL,
    "a.json": json.dumps(ROWS, indent=1).encode(),
    "sequence.json": JSONL,
    "a.csv": CSV,
    "a.tsv": CSV.replace(b",", b"\t"),
    "a.parquet": write_parquet("snappy"),
    "zstd.parquet": write_parquet("zstd"),
    "stream.arrow": write_arrow(pa.ipc.new_stream),
    "file.arrow": write_arrow(pa.ipc.new_file),
    "a.jsonl.gz": gzip.compress(JSONL, mtime=0),
    "a.csv.zst": pack_zst(CSV),
    "a.zip": pack_zip({"a.jsonl": JSONL, "b/c.csv": CSV}),
}

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
    """Read a file; return the reason of its refusal, if it is refused."""
    path = folder / "bucket" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    config = StorageConfig(uri="s3://unused", local_root=str(folder))
    (file,) = find_source_files([Source(uri=f"s3://bucket/{name}")], config, field="data.sources")
    entries = read_documents(file, path)
    with limit_time():
        while True:
            try:
                entry = next(entries)
            except StopIteration:
                return ""
            except DataError as error:
                refusal = error
                break
            assert entry.place.startswith(file.uri)
            if isinstance(entry, Document):
                entry.text.encode()
    assert refusal.message.startswith(file.uri)
    return refusal.reason


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
