"""A file of every format that sources may have, and how one is read or refused.

Below: the trainer's readers. Above: tests and `tests/fuzz`, which change these files.
"""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from llmtrain_api.run import StorageConfig
from llmtrain_api.sources import Source
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.readers import read_documents
from llmtrain_trainer.preparation.sources import find_source_files

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


def read_or_refuse(folder: Path, name: str, content: bytes) -> str:
    """Read a file; return the reason of its refusal, or nothing where all of it was read.

    Raises:
        AssertionError: where an entry or the refusal does not name the file.
    """
    path = folder / "bucket" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    config = StorageConfig(uri="s3://unused", local_root=str(folder))
    (file,) = find_source_files([Source(uri=f"s3://bucket/{name}")], config, field="data.sources")
    try:
        for entry in read_documents(file, path):
            assert entry.place.startswith(file.uri)
            if isinstance(entry, Document):
                entry.text.encode()
    except DataError as error:
        refusal = error
    else:
        return ""
    assert refusal.message.startswith(file.uri)
    return refusal.reason
