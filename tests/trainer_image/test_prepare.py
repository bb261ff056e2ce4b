"""The stage of preparation from end to end: the same data anywhere, made once, or an error."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llmtrain_api.run import RUN_RECORD, RunConfig
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.preparation.sources import find_inputs
from llmtrain_trainer.prepare import compute_fingerprint
from llmtrain_trainer.store import BucketMissingError, open_store
from testbed.fault_log import FaultWatch
from testbed.minio import MinioServer
from testbed.prepared_topics import (
    DOCUMENTS,
    JSONL_DATA,
    TopicsFolder,
    list_documents,
    open_prepared,
    open_result,
    prepare,
    read_manifest,
    write_topics,
)
from testbed.tiny_run import configure_tiny_run

PARENT = "s3://tiny-bucket/runs/tests/first"

Configure = Callable[..., RunConfig]
"""Describes a run by its name and data."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> TopicsFolder:
    return TopicsFolder(tmp_path_factory.mktemp("folder"))


@pytest.fixture(scope="module")
def configure_minio(minio: MinioServer, tmp_path_factory: pytest.TempPathFactory) -> Configure:
    """Describes runs whose store is a MinIO with the topics."""
    keys = tmp_path_factory.mktemp("minio-keys")
    (keys / "accessKey").write_text(minio.access_key)
    (keys / "secretKey").write_text(minio.secret_key)
    minio.create_bucket("tiny-bucket")
    storage = {
        "localRoot": None,
        "endpoint": minio.endpoint,
        "credentialsDirectory": str(keys),
    }

    def configure(run: str, **data: Any) -> RunConfig:
        return configure_tiny_run(keys, run=run, storage=storage, data={**JSONL_DATA, **data})

    write_topics(configure("any"))
    return configure


def test_folder_and_minio_give_the_same_data(
    folder: TopicsFolder, configure_minio: Configure, tmp_path: Path
) -> None:
    manifests = []
    for name, configure in (("folder", folder.configure), ("minio", configure_minio)):
        config = configure("same", tokenizer={"kind": "bpe", "vocabularySize": 1000})
        result = prepare(config)
        assert (result.documents, result.dataset_reused) == (len(DOCUMENTS), False)
        assert result.vocabulary_size == 1000
        manifests.append(json.loads(open_prepared(config, result).read_bytes("manifest.json")))
        store = open_store("s3://tiny-bucket/topics", config.storage)
        digests = [hashlib.sha256(store.read_bytes(f"{key}.jsonl")).hexdigest() for key in "ab"]
        assert [source.sha256 for source in read_manifest(config, result).sources] == digests

        dataset = open_result(config, result, tmp_path / f"{name}-cache")
        train, held_out = list_documents(dataset, tmp_path / f"{name}-tokenizer")
        assert sorted(train + held_out) == sorted(DOCUMENTS)
        assert [text for text in DOCUMENTS if text in set(train)] == train
        assert 0.02 < len(held_out) / len(DOCUMENTS) < 0.25
        assert dataset.validation.num_bytes == sum(len(text.encode()) for text in held_out)
        assert dataset.unigram_counts.sum() == dataset.train.num_tokens == result.train_tokens
        assert dataset.unigram_counts[dataset.end_of_text] == len(train)
        assert dataset.validation.num_tokens == result.validation_tokens
    assert manifests[0]["objects"] == manifests[1]["objects"]


def test_second_job_uses_the_data_of_the_first(configure_minio: Configure) -> None:
    first = prepare(configure_minio("first"))
    second_config = configure_minio("second").model_copy(update={"parent": PARENT})
    second = prepare(second_config)
    assert (first.dataset_reused, second.dataset_reused) == (False, True)
    assert second.model_copy(update={"dataset_reused": False}) == first
    store = open_store(second_config.run_uri, second_config.storage)
    record = json.loads(store.read_bytes("dataset.json"))
    assert record["fingerprint"] == first.dataset
    told = json.loads(store.read_bytes(RUN_RECORD))
    assert (told["parent"], told["data"]) == (PARENT, second_config.data.dump())
    assert told.keys().isdisjoint({"storage", "rendezvous"})  # say where keys are


def test_changed_source_is_prepared_anew(configure_minio: Configure) -> None:
    source = {"uri": "s3://tiny-bucket/changing.txt"}
    config = configure_minio("changing", sources=[source], split={"method": "tail"})
    store = open_store("s3://tiny-bucket", config.storage)
    results = []
    for text in ("one " * 100, "two " * 100):
        store.write_bytes("changing.txt", text.encode())
        results.append(prepare(config))
    assert results[0].dataset != results[1].dataset
    assert results[1].dataset_reused is False


def test_jobs_at_the_same_time_agree(configure_minio: Configure, tmp_path: Path) -> None:
    configs = [configure_minio(f"rival-{i}", tokenizer={"kind": "character"}) for i in range(3)]
    with ThreadPoolExecutor(len(configs)) as pool:
        results = list(pool.map(prepare, configs))
    assert len({result.dataset for result in results}) == 1
    assert [result.dataset_reused for result in results].count(False) == 1
    dataset = open_result(configs[0], results[0], tmp_path / "cache")
    train, held_out = list_documents(dataset, tmp_path / "tokenizer")
    assert sorted(train + held_out) == sorted(DOCUMENTS)


@pytest.mark.fault(21, world="ranks")
def test_bad_line_stops_the_stage_and_leaves_no_dataset(
    folder: TopicsFolder, fault: FaultWatch
) -> None:
    config = folder.configure("bad", sources=[{"uri": "s3://tiny-bucket/bad/"}])
    store = open_store("s3://tiny-bucket/bad", config.storage)
    store.write_bytes("lines.jsonl", b'{"text": "fine"}\n' * 811 + b'{"text": \n')
    listing = open_store("s3://tiny-bucket/datasets", config.storage)
    before = [item.key for item in listing.list_objects()]
    fault.strikes()
    with pytest.raises(DataError) as failed:
        prepare(config)
    fault.said(failed.value.message, "s3://tiny-bucket/bad/lines.jsonl:812: not valid JSON")
    assert [item.key for item in listing.list_objects()] == before


def test_missing_sources_are_named(configure_minio: Configure) -> None:
    def prepare_from(uri: str) -> None:
        prepare(configure_minio("missing", sources=[{"uri": uri}]))

    with pytest.raises(BucketMissingError, match="bucket elsewhere does not exist at http://"):
        prepare_from("s3://elsewhere/*.txt")
    with pytest.raises(DataError, match=r"data\.sources\[0\]\.uri: no object matches"):
        prepare_from("s3://tiny-bucket/nothing/")


def test_stage_needs_neither_torch_nor_transformers() -> None:
    check = (
        "import sys, llmtrain_trainer.prepare, llmtrain_trainer.store.s3;"
        "print([name for name in ('matplotlib', 'sklearn', 'torch', 'transformers')"
        " if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "changed",
    [
        {"split": {"method": "document", "validationFraction": 0.2}},
        {"split": {**JSONL_DATA["split"], "testFraction": 0.1}},
        {"reduce": {"tokens": 10_000}},
        {"augment": {"typo": 0.1}},
        {"augment": {"typo": 0.1, "seed": 1}},
        {"pack": {"sequenceLength": 64}},
        {"pack": {"sequenceLength": 64, "overlong": "truncate"}},
        {"shardMebibytes": 1},
        {"sources": [{**JSONL_DATA["sources"][0], "fields": {"id": "body"}}]},
    ],
)
def test_fingerprint_follows_what_changes_the_data(
    folder: TopicsFolder, changed: dict[str, Any]
) -> None:
    def fingerprint(**data: Any) -> str:
        config = folder.configure("fingerprint", **data)
        inputs = find_inputs(config.data, config.storage)
        return compute_fingerprint(config.data, inputs, config.storage)

    assert fingerprint(**changed) != fingerprint()
    absent = dict.fromkeys(["reduce", "augment", "pack", "shardMebibytes"])
    same = {"tasks": 3, "pins": "s3://tiny-bucket/manifest.json"}
    assert fingerprint(**absent, **same) == fingerprint()
