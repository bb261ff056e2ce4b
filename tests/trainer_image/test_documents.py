"""Which objects a source names, and what is said about text that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmtrain_api.data import Source
from llmtrain_api.records import ExitCode
from llmtrain_api.run import StorageConfig
from llmtrain_trainer.documents import find_source_files, read_documents
from llmtrain_trainer.failures import DataError


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    folder = tmp_path / "bucket"
    folder.mkdir()
    return folder


def find(bucket: Path, uri: str, **fields: str) -> list[str]:
    source = Source.model_validate({"uri": uri, **fields})
    config = StorageConfig(uri="s3://unused", local_root=str(bucket.parent))
    return [file.stored.key for file in find_source_files(source, config, field="data.sources[0]")]


def read(bucket: Path, name: str, content: bytes, **fields: str) -> list[str]:
    path = bucket / name
    path.write_bytes(content)
    source = Source.model_validate({"uri": f"s3://bucket/{name}", **fields})
    config = StorageConfig(uri="s3://unused", local_root=str(bucket.parent))
    (file,) = find_source_files(source, config, field="data.sources[0]")
    return list(read_documents(file, path))


@pytest.mark.parametrize(
    ("uri", "keys"),
    [
        ("s3://bucket/a.txt", ["a.txt"]),
        ("s3://bucket/web/", ["web/1.jsonl", "web/10.jsonl", "web/deep/2.jsonl", "web/notes.txt"]),
        ("s3://bucket/web/*.jsonl", ["web/1.jsonl", "web/10.jsonl", "web/deep/2.jsonl"]),
        ("s3://bucket/web/?.jsonl", ["web/1.jsonl"]),
        ("s3://bucket/*/[12].jsonl", ["web/1.jsonl", "web/deep/2.jsonl"]),
    ],
)
def test_uri_names_an_object_a_prefix_or_a_glob(bucket: Path, uri: str, keys: list[str]) -> None:
    names = ("a.txt", "a.txt.old", "web/1.jsonl", "web/10.jsonl", "web/deep/2.jsonl")
    for name in (*names, "web/notes.txt"):
        (bucket / name).parent.mkdir(parents=True, exist_ok=True)
        (bucket / name).write_text("text")
    assert find(bucket, uri) == keys


@pytest.mark.parametrize("uri", ["s3://bucket/none", "s3://bucket/we/", "s3://elsewhere/*.txt"])
def test_source_without_objects_is_named(bucket: Path, uri: str) -> None:
    (bucket / "web").mkdir()
    (bucket / "web/a.txt").write_text("text")
    with pytest.raises(DataError) as failed:
        find(bucket, uri)
    assert failed.value.message == f"data.sources[0].uri: no object matches {uri}"
    assert (failed.value.code, failed.value.reason) == (ExitCode.DATA, "SourceEmpty")


def test_text_file_is_one_document(bucket: Path) -> None:
    content = "Zwölf\r\nZeilen\n\n".encode()
    assert read(bucket, "a.md", content) == ["Zwölf\r\nZeilen\n\n"]


def test_jsonl_lines_are_documents(bucket: Path) -> None:
    lines = b'{"text": "one\\nline"}\n\n  \n{"id": 3, "text": "\\u00e4"}'
    assert read(bucket, "a.ndjson", lines) == ["one\nline", "ä"]
    assert read(bucket, "b.log", b'{"body": "x"}', format="jsonl", textField="body") == ["x"]
    assert read(bucket, "c.jsonl", b'{"body": "x"}', format="text") == ['{"body": "x"}']


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "cut', "not valid JSON: Invalid control character at column 14"),
        (b'["text"]', "not a JSON object"),
        (b'{"body": "b", "id": 1}', "no field 'text'; the line has body, id"),
        (b"{}", "no field 'text'; the line has none"),
        (b'{"text": null}', "field 'text' is NoneType, not text"),
        (b'{"text": ["a"]}', "field 'text' is list, not text"),
        (b'{"text": ""}', "the document is empty"),
        (b'{"text": "\xff"}', "not valid UTF-8 at byte 10"),
        (b'{"text": "\\ud800"}', "field 'text' has half of a surrogate pair"),
    ],
)
def test_bad_line_is_named(bucket: Path, line: bytes, message: str) -> None:
    content = b'{"text": "fine"}\n' * 811 + line + b"\n" + b'{"text": "fine"}\n'
    with pytest.raises(DataError) as failed:
        read(bucket, "a.jsonl", content)
    assert failed.value.message.startswith(f"s3://bucket/a.jsonl:812: {message}")
    assert failed.value.next_step


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "s3://bucket/a.txt: the document is empty"),
        (b"one\ntwo\xfe", "s3://bucket/a.txt: not valid UTF-8 at line 2, byte 7"),
    ],
)
def test_bad_text_file_is_named(bucket: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError) as failed:
        read(bucket, "a.txt", content)
    assert failed.value.message == message
