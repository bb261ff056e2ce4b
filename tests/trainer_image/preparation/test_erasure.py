"""Lists of documents to be erased are understood wholly, or refused by file and line."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from llmtrain_api.run import StorageConfig
from llmtrain_api.sources import Source
from llmtrain_trainer.dataset.document_index import digest_text
from llmtrain_trainer.dataset.facts import Facts
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.erasure import Erasures, read_erasures
from llmtrain_trainer.preparation.sources import find_source_files

DIGEST = hashlib.sha256(b"text").hexdigest()
HALF = digest_text("told by a finding")
WITH_IDS = Source.model_validate({"uri": "s3://bucket/a.jsonl", "fields": {"id": "key"}})
WITHOUT_IDS = Source(uri="s3://bucket/a.jsonl")


def read_list(folder: Path, content: bytes, source: Source) -> Erasures:
    (folder / "bucket").mkdir()
    (folder / "bucket" / "list.txt").write_bytes(content)
    config = StorageConfig(uri="s3://unused", local_root=str(folder))
    files = find_source_files(
        [Source(uri="s3://bucket/list.txt")], config, field="data.privacy.erase"
    )
    return read_erasures(files, folder, [WITHOUT_IDS, source])


def test_digests_and_ids_name_documents(tmp_path: Path) -> None:
    content = f"\ufeff{DIGEST}\r\n\n  id:Zoë: 7 \nid:{DIGEST}\n{HALF}\n".encode()
    erasures = read_list(tmp_path, content, WITH_IDS)
    assert erasures == Erasures(frozenset({DIGEST[:32], HALF}), frozenset({"Zoë: 7", DIGEST}))
    documents = [
        Document("changed", "a:1", 0, digest=digest_text("text")),
        Document("other", "a:2", 0, digest=digest_text("other"), facts=Facts(id="Zoë: 7")),
        Document("other", "a:3", 0, digest=digest_text("other"), facts=Facts(label="Zoë: 7")),
    ]
    assert [erasures.name(document) for document in documents] == [True, True, False]


@pytest.mark.parametrize(
    ("line", "source", "message"),
    [
        (b"jane.roe", WITH_IDS, "neither a SHA-256 in 64 hexadecimal digits"),
        (b"id:", WITH_IDS, "neither a SHA-256"),
        (b"id:\xff", WITH_IDS, "neither a SHA-256"),
        (DIGEST[:-1].encode(), WITH_IDS, "neither a SHA-256"),
        (b"id:jane.roe", WITHOUT_IDS, "an id, but no source in data.sources names its field"),
    ],
)
def test_line_that_is_not_understood_is_refused(
    tmp_path: Path, line: bytes, source: Source, message: str
) -> None:
    with pytest.raises(DataError) as failed:
        read_list(tmp_path, DIGEST.encode() + b"\n" + line, source)
    assert failed.value.message.startswith(f"s3://bucket/list.txt:2: {message}")
    assert "jane" not in failed.value.message
