"""Every format gives the same documents, and what cannot be read is named by file and line."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from llmtrain_api.run import StorageConfig
from llmtrain_api.sources import Source, SourceFormat
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.preparation.document import Document, Rejection
from llmtrain_trainer.preparation.formats import guess_format
from llmtrain_trainer.preparation.readers import read_documents
from llmtrain_trainer.preparation.sources import find_source_files

TEXTS = ["one", "zwei\nZeilen", 'with "quotes", commas\tand tabs', "🙂\u2028\u00e4"]


def read_all(folder: Path, name: str, content: bytes, **fields: Any) -> list[Document | Rejection]:
    path = folder / "bucket" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    source = Source.model_validate({"uri": f"s3://bucket/{name}", **fields})
    config = StorageConfig(uri="s3://unused", local_root=str(folder))
    (file,) = find_source_files([source], config, field="data.sources")
    return list(read_documents(file, path))


def read(folder: Path, name: str, content: bytes, **fields: Any) -> list[str]:
    """Return the texts of a file that has nothing but documents."""
    entries = read_all(folder, name, content, **fields)
    assert [entry for entry in entries if isinstance(entry, Rejection)] == []
    return [entry.text for entry in entries if isinstance(entry, Document)]


def write_jsonl(texts: list[str]) -> bytes:
    return "\n".join(json.dumps({"id": i, "text": t}) for i, t in enumerate(texts)).encode()


def write_json(texts: list[str]) -> bytes:
    return json.dumps([{"text": text} for text in texts], indent=1).encode()


def write_json_sequence(texts: list[str]) -> bytes:
    return "\n".join(json.dumps({"text": text}, indent=2) for text in texts).encode()


def write_csv(texts: list[str], delimiter: str = ",") -> bytes:
    quoted = ['"' + text.replace('"', '""') + '"' for text in texts]
    rows = [delimiter.join((str(i), text)) for i, text in enumerate(quoted)]
    return "\r\n".join([delimiter.join(("id", "text")), *rows, ""]).encode()


def write_tsv(texts: list[str]) -> bytes:
    return write_csv(texts, "\t")


def write_parquet(texts: list[str]) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table({"text": texts, "id": range(len(texts))}), file)
    return file.getvalue()


def write_arrow_stream(texts: list[str]) -> bytes:
    table = pa.table({"text": texts, "id": range(len(texts))})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return bytes(sink.getvalue())


def write_arrow_file(texts: list[str]) -> bytes:
    table = pa.table({"text": texts, "id": range(len(texts))})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return bytes(sink.getvalue())


def pack_zst(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


def pack_zip(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


FORMATS: dict[str, Callable[[list[str]], bytes]] = {
    "a.jsonl": write_jsonl,
    "a.json": write_json,
    "sequence.json": write_json_sequence,
    "a.csv": write_csv,
    "a.tsv": write_tsv,
    "a.parquet": write_parquet,
    "a.arrow": write_arrow_stream,
    "file.arrow": write_arrow_file,
}

PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": pack_zst,
}


@pytest.mark.parametrize("suffix", PACKINGS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_documents(tmp_path: Path, name: str, suffix: str) -> None:
    content = PACKINGS[suffix](FORMATS[name](TEXTS))
    assert read(tmp_path, name + suffix, content) == TEXTS


def test_zip_is_read_member_by_member(tmp_path: Path) -> None:
    content = pack_zip(
        {"b/c.csv": write_csv(["csv"]), "a.jsonl": write_jsonl(["lines"]), "d.txt": b"whole"}
    )
    assert read(tmp_path, "all.zip", content) == ["lines", "csv", "whole"]
    (first, *_) = read_all(tmp_path, "all.zip", content)
    assert first.place == "s3://bucket/all.zip!a.jsonl:1"


def test_text_file_is_one_document(tmp_path: Path) -> None:
    content = "Zwölf\r\nZeilen\n\n".encode()
    assert read(tmp_path, "a.md", content) == ["Zwölf\r\nZeilen\n\n"]
    assert read(tmp_path, "marked.txt", b"\xef\xbb\xbf" + content) == ["Zwölf\r\nZeilen\n\n"]


def test_jsonl_lines_are_documents(tmp_path: Path) -> None:
    lines = b'{"text": "one\\nline"}\n\n  \n{"id": 3, "text": "\\u00e4"}'
    assert read(tmp_path, "a.ndjson", lines) == ["one\nline", "ä"]
    assert read(tmp_path, "b.log", b'{"body": "x"}', format="jsonl", textField="body") == ["x"]
    assert read(tmp_path, "c.jsonl", b'{"body": "x"}', format="text") == ['{"body": "x"}']


def test_template_makes_a_document_of_several_fields(tmp_path: Path) -> None:
    content = b"question,answer\nWhy?,Because.\n"
    template = "{{Q}} {question}\n{answer}"
    assert read(tmp_path, "a.csv", content, template=template) == ["{Q} Why?\nBecause."]


@pytest.mark.parametrize("template", ["{text.__class__}", "{0}", "{text!r}", "{text", "no field"])
def test_template_that_is_none_is_refused(tmp_path: Path, template: str) -> None:
    with pytest.raises(Exception, match=r"data\.sources\[0\]\.template: "):
        read(tmp_path, "a.jsonl", b'{"text": "x"}', template=template)


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("a.JSONL", SourceFormat.JSONL),
        ("a.htm.gz", SourceFormat.HTML),
        ("a.zip!b.parquet", SourceFormat.PARQUET),
        ("noending", SourceFormat.TEXT),
        ("a.md", SourceFormat.TEXT),
    ],
)
def test_format_follows_from_the_name(name: str, format_: SourceFormat) -> None:
    assert guess_format(name) is format_


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "cut', "not valid JSON: Unterminated string starting at column 10"),
        (b'["text"]', "not a JSON object"),
        (b'{"body": "b", "id": 1}', "no field 'text'; the record has body, id"),
        (b"{}", "no field 'text'; the record has none"),
        (b'{"text": null}', "field 'text' is NoneType, not text"),
        (b'{"text": ["a"]}', "field 'text' is list, not text"),
        (b'{"text": ""}', "the document is empty"),
        (b'{"text": "\xff"}', "not valid UTF-8 at byte 10"),
        (b'{"text": "\\ud800"}', "field 'text' has half of a surrogate pair"),
        (b"[" * 100_000, "not valid JSON: maximum recursion depth exceeded"),
        (b'{"text": ' + b"9" * 5000 + b"}", "not valid JSON: Exceeds the limit"),
    ],
)
def test_bad_line_is_named_and_reading_goes_on(tmp_path: Path, line: bytes, message: str) -> None:
    content = b'{"text": "fine"}\n' * 811 + line + b"\n" + b'{"text": "fine"}\n'
    entries = read_all(tmp_path, "a.jsonl", content)
    (bad,) = [entry for entry in entries if isinstance(entry, Rejection)]
    assert bad.place == "s3://bucket/a.jsonl:812"
    assert bad.why.startswith(message)
    assert bad.next_step
    assert len(entries) == 813


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"1", "the row has 1 fields, the header has 2"),
        (b'1,"a"b', "not a row: ',' expected after '\"'"),
        (b'1,""', "the document is empty"),
    ],
)
def test_bad_row_is_named_by_the_line_it_begins_at(
    tmp_path: Path, row: bytes, message: str
) -> None:
    content = b'id,text\n0,"two\nlines"\n' + row + b"\n2,fine\n"
    good, bad, last = read_all(tmp_path, "a.csv", content)
    assert isinstance(bad, Rejection)
    assert (bad.place, bad.why) == ("s3://bucket/a.csv:4", message)
    assert isinstance(good, Document)
    assert (last.place, good.text) == ("s3://bucket/a.csv:5", "two\nlines")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'[{"text": "a"},\n {"text": ]', "a.json:2: not valid JSON: Expecting value"),
        ("a.json", b'[{"text": "a"}\n{"text": "b"}]', "a.json:2: not valid JSON: expected , or ]"),
        ("a.json", b'[{"text": "a"},\n\n{"text": "b', "a.json:3: not valid JSON: Unterminated"),
        ("a.json", b'[{"text": "a"},\n', "a.json:2: not valid JSON: Expecting value"),
        ("a.json", b'[{"text": "\xff"}]', "a.json:1: not valid JSON: not valid UTF-8"),
        ("a.csv", b"id,body\n1,a\n", "a.csv:1: no field 'text'; the header has id, body"),
        ("a.csv", b"text,text\n1,a\n", "a.csv:1: field 'text' occurs twice"),
        ("a.csv", b"text\na\n\xff\n", "a.csv:3: not valid UTF-8 at byte 0"),
        ("a.parquet", b"PAR1 but not really", "a.parquet: not a Parquet file: "),
        ("a.parquet", b"", "a.parquet: not a Parquet file: "),
        ("a.arrow", b"ARROW1 but not really", "a.arrow: not an Arrow file: "),
        ("a.arrow", b"", "a.arrow: not an Arrow file: "),
        ("a.jsonl.gz", b"not gzip", "a.jsonl.gz cannot be unpacked: Not a gzipped file"),
        ("a.jsonl.zst", b"not zstd", "a.jsonl.zst cannot be unpacked: "),
        ("a.zip", b"not zip", "a.zip cannot be unpacked: File is not a zip file"),
        (
            "a.txt.gz",
            gzip.compress(b"a" * 1000, mtime=0)[:-9],
            "a.txt.gz cannot be unpacked: Compressed",
        ),
        (
            "a.txt.gz",
            gzip.compress(bytes(80 << 20), mtime=0),
            "a.txt.gz unpacks to more than 200 times",
        ),
        ("a.zip", pack_zip({"a.txt": bytes(80 << 20)}), "a.zip unpacks to more than 200 times"),
    ],
)
def test_file_that_cannot_be_read_on_is_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(DataError) as failed:
        read_all(tmp_path, name, content)
    assert failed.value.message.startswith(f"s3://bucket/{message}")
    assert failed.value.next_step


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "the document is empty"), (b"one\ntwo\xfe", "not valid UTF-8 at line 2, byte 7")],
)
def test_bad_text_file_is_named(tmp_path: Path, content: bytes, why: str) -> None:
    (bad,) = read_all(tmp_path, "a.txt", content)
    assert isinstance(bad, Rejection)
    assert (bad.place, bad.why) == ("s3://bucket/a.txt", why)


def test_json_values_may_be_longer_than_what_is_read_at_once(tmp_path: Path) -> None:
    texts = ["x" * (5 << 20), "y", "\u00e4" * (3 << 20)]
    assert read(tmp_path, "a.json", write_json(texts)) == texts


def test_the_field_to_split_by_goes_with_the_document(tmp_path: Path) -> None:
    lines = b'{"text": "a", "who": "x"}\n{"text": "b", "who": 7}\n{"text": "c", "who": null}\n'
    first, second, third = read_all(tmp_path, "a.jsonl", lines, splitField="who")
    assert isinstance(first, Document)
    assert isinstance(second, Document)
    assert (first.key, second.key) == ("x", "7")
    assert isinstance(third, Rejection)
    assert third.why == "field 'who' has no value to split by"
    (whole,) = read_all(tmp_path, "a.txt", b"text", splitField="who")
    assert isinstance(whole, Rejection)
    assert whole.why == "a text has no field 'who' to split by"


@pytest.mark.parametrize(
    ("name", "content", "record"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"t\n', b'{"t\n'),
        ("a.jsonl", b'\xff{"text": "a"}\n', b'\xff{"text": "a"}\n'),
        ("a.jsonl", b'{"body": "a"}\n', b'{"body": "a"}\n'),
        ("a.json", '[{"body": "ä"}]'.encode(), '{"body": "ä"}'.encode()),
        ("a.csv", b'id,text\n1,a\n2,"b\nb"x\n', b'2,"b\nb"x\n'),
        ("a.csv", b"id,text\n1,a\n2,b,c\n", b"2,b,c\n"),
        ("a.csv", b"id,text\n1,a\n2,\n", b"2,\n"),
        ("a.parquet", write_parquet([""]), b'{"text": ""}'),
        ("a.txt", b"a\xff", b"a\xff"),
    ],
)
def test_a_rejection_has_what_was_found(
    tmp_path: Path, name: str, content: bytes, record: bytes
) -> None:
    entries = read_all(tmp_path, name, content)
    (bad,) = [entry for entry in entries if isinstance(entry, Rejection)]
    assert bad.record == record


def test_a_record_has_a_list_of_labels(tmp_path: Path) -> None:
    values: list[Any] = [["b", "a", "b"], [], [7], "a", None, ["a", None], [["a"]]]
    lines = [json.dumps({"text": "one", "kinds": value}) for value in values]
    content = "\n".join(lines).encode()
    entries = read_all(tmp_path, "a.jsonl", content, fields={"labels": "kinds"})
    read_sets = [entry.facts.labels for entry in entries if isinstance(entry, Document)]
    assert read_sets == [("a", "b"), (), ("7",)]
    refused = [entry for entry in entries if isinstance(entry, Rejection)]
    assert [entry.place.rsplit(":", 1)[-1] for entry in refused] == ["4", "5", "6", "7"]
    assert "is no list of labels" in refused[0].why
