"""The index of documents says which ones a dataset holds, and is read in part."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from llmtrain_trainer.dataset.document_index import (
    BLOCK_BYTES,
    DOCUMENTS,
    DocumentIndex,
    digest_text,
    find_entry,
    make_entry,
)
from llmtrain_trainer.store.folder import FolderStore


@pytest.mark.parametrize("count", [0, 1, 3, 30_000])
def test_documents_are_found_by_text_and_by_id(tmp_path: Path, count: int) -> None:
    index = DocumentIndex()
    texts = [f"text {i}" for i in range(count)]
    for text in (*texts, *texts[:2]):
        index.add(digest_text(text), "" if text == "text 2" else f"name of {text}")
    store = FolderStore(tmp_path, "bucket", "dataset")
    (tmp_path / "bucket" / "dataset").mkdir(parents=True)
    index.write(tmp_path / "bucket" / "dataset" / DOCUMENTS)

    found = store.find_object(DOCUMENTS)
    assert found is not None
    entries = 2 * count - (count > 2)
    assert found.size == 16 * entries
    assert (found.size > 4 * BLOCK_BYTES) == (count == 30_000)

    def holds(name: str) -> bool:
        entry = make_entry(name)
        assert entry is not None
        return find_entry(store, found.size, entry)

    for text in texts[:50] + texts[-50:]:
        assert holds(hashlib.sha256(text.encode()).hexdigest())
        assert holds(f"id:name of {text}") == (text != "text 2")
        assert not holds(hashlib.sha256(f"{text}!".encode()).hexdigest())
        assert not holds(f"id:{text}")
    assert not holds("0" * 64)
    assert not holds("f" * 64)


@pytest.mark.parametrize("name", ["", "id:", "text", "0" * 63, "G" * 64])
def test_document_that_is_not_named_has_no_entry(name: str) -> None:
    assert make_entry(name) is None
