"""Which objects a source names, and that they stay what they were."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from llmtrain_api.records import ExitCode
from llmtrain_api.run import StorageConfig
from llmtrain_api.sources import Source
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.preparation.sources import SourceFile, fetch_source_file, find_source_files


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    folder = tmp_path / "bucket"
    folder.mkdir()
    return folder


def find(bucket: Path, uri: str, **fields: str) -> list[SourceFile]:
    source = Source.model_validate({"uri": uri, **fields})
    config = StorageConfig(uri="s3://unused", local_root=str(bucket.parent))
    return find_source_files([source], config, field="data.sources")


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
    assert [file.stored.key for file in find(bucket, uri)] == keys


@pytest.mark.parametrize("uri", ["s3://bucket/none", "s3://bucket/we/", "s3://elsewhere/*.txt"])
def test_source_without_objects_is_named(bucket: Path, uri: str) -> None:
    (bucket / "web").mkdir()
    (bucket / "web/a.txt").write_text("text")
    with pytest.raises(DataError) as failed:
        find(bucket, uri)
    assert failed.value.message == f"data.sources[0].uri: no object matches {uri}"
    assert (failed.value.code, failed.value.reason) == (ExitCode.DATA, "SourceEmpty")


def test_what_was_read_is_described_by_its_digest(bucket: Path, tmp_path: Path) -> None:
    (bucket / "a.txt").write_bytes(b"text")
    digest = hashlib.sha256(b"text").hexdigest()
    (file,) = find(bucket, "s3://bucket/a.txt", sha256=digest)
    described = fetch_source_file(file, tmp_path / "fetched")
    assert (described.uri, described.size, described.sha256) == ("s3://bucket/a.txt", 4, digest)
    assert (tmp_path / "fetched").read_bytes() == b"text"


def test_change_between_finding_and_reading_is_refused(bucket: Path, tmp_path: Path) -> None:
    (bucket / "a.txt").write_bytes(b"text")
    (file,) = find(bucket, "s3://bucket/a.txt")
    (bucket / "a.txt").write_bytes(b"next")
    with pytest.raises(DataError, match=r"s3://bucket/a\.txt changed while it was read"):
        fetch_source_file(file, tmp_path / "fetched")


def test_pinned_source_with_other_content_is_refused(bucket: Path, tmp_path: Path) -> None:
    (bucket / "a.txt").write_bytes(b"other")
    (file,) = find(bucket, "s3://bucket/a.txt", sha256="0" * 64)
    with pytest.raises(DataError, match=r"a\.txt has the SHA-256 .* not that of data\.sources\[0"):
        fetch_source_file(file, tmp_path / "fetched")
