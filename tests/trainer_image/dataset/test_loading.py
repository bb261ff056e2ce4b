"""Reading token streams over shards, and refusing damaged ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmtrain_api.naming import locate_dataset
from llmtrain_api.run import RunConfig
from llmtrain_trainer.dataset.loading import Split, open_dataset
from llmtrain_trainer.dataset.shards import ShardWriter
from llmtrain_trainer.failures import StoreError
from llmtrain_trainer.prepare import run_prepare
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.store import Store, open_store
from testbed.tiny_run import prepare_tiny_run

END_OF_TEXT = 65_535


def write_split(folder: Path, documents: list[list[int]], *, shard_tokens: int) -> Split:
    writer = ShardWriter(folder, "train", shard_tokens=shard_tokens)
    for document in documents:
        writer.append(np.array([*document, END_OF_TEXT], dtype="<u2"), num_bytes=len(document))
    manifest = writer.finish()
    assert manifest is not None
    return Split(folder, manifest, "<u2", END_OF_TEXT)


@pytest.mark.parametrize("shard_tokens", [1, 7, 20, 10_000])
def test_sequences_and_documents_cross_shards(tmp_path: Path, shard_tokens: int) -> None:
    lengths = [3, 0, 11, 1, 30, 2, 2]
    documents = [[100 * i + k for k in range(length)] for i, length in enumerate(lengths)]
    split = write_split(tmp_path, documents, shard_tokens=shard_tokens)
    stream = [token for document in documents for token in (*document, END_OF_TEXT)]
    assert (split.num_tokens, split.num_documents) == (len(stream), len(documents))
    assert [split.read_document(i).tolist() for i in range(len(documents))] == documents
    for length in (1, 4, 9, len(stream) - 1):
        count = split.num_sequences(length)
        assert count == (len(stream) - 1) // length
        sequences = split.read_sequences(np.arange(count)[::-1], length)
        assert sequences.dtype == np.int64
        assert sequences.shape == (count, length + 1)
        assert sequences[::-1].tolist() == [
            stream[i * length : (i + 1) * length + 1] for i in range(count)
        ]
    assert split.num_sequences(len(stream)) == 0
    assert split.count_tokens(65_536)[END_OF_TEXT] == len(documents)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_prepared(prepare_tiny_run(tmp_path / "root"))


def open_prepared(config: RunConfig) -> Store:
    result = run_prepare(config, Reporter(0, lambda update: None))
    assert result.dataset is not None
    return open_store(locate_dataset(config.storage.uri, result.dataset), config.storage)


def test_damaged_object_is_refused_by_name(store: Store, tmp_path: Path) -> None:
    tokens = bytearray(store.read_bytes("train-00000.tokens"))
    tokens[5] ^= 1
    store.write_bytes("train-00000.tokens", bytes(tokens))
    with pytest.raises(StoreError, match=r"train-00000\.tokens is not what") as failed:
        open_dataset(store, tmp_path / "cache")
    assert failed.value.reason == "DatasetDamaged"
    tokens[5] ^= 1
    store.write_bytes("train-00000.tokens", bytes(tokens))
    assert open_dataset(store, tmp_path / "cache").train.num_tokens == len(tokens) // 2


def test_second_opening_downloads_nothing(store: Store, tmp_path: Path) -> None:
    first = open_dataset(store, tmp_path / "cache")
    for item in list(store.list_objects()):
        if item.key != "manifest.json":
            store.delete(item.key)
    second = open_dataset(store, tmp_path / "cache")
    assert second.train.read_sequences([0], 16).tolist() == (
        first.train.read_sequences([0], 16).tolist()
    )


def test_manifest_of_another_kind_is_refused(store: Store, tmp_path: Path) -> None:
    store.write_bytes("manifest.json", b'{"formatVersion": 2}')
    with pytest.raises(StoreError, match=r"manifest\.json is not what"):
        open_dataset(store, tmp_path / "cache")
