"""Sources in a bucket that keeps versions: a run reads those that it began with, and so does
another one that goes by its dataset.
"""

from __future__ import annotations

import io
import json
import secrets
from pathlib import Path
from typing import Any

import pytest

from llmtrain_api.run import RunConfig
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.preparation.pins import resolve_inputs
from llmtrain_trainer.preparation.portions import Portion, iterate_lines
from llmtrain_trainer.store import open_store
from testbed.minio import MinioServer
from testbed.prepared_topics import DOCUMENTS, JSONL_DATA, prepare, read_manifest
from testbed.tiny_run import configure_tiny_run

KEY = "corpus/a.jsonl"


class Versions:
    """A bucket that keeps versions, with one source in it."""

    def __init__(self, minio: MinioServer, folder: Path) -> None:
        self.client = minio.connect()
        self.bucket = f"versions-{secrets.token_hex(4)}"
        minio.create_bucket(self.bucket, keeps_versions=True)
        (folder / "accessKey").write_text(minio.access_key)
        (folder / "secretKey").write_text(minio.secret_key)
        self._folder, self._endpoint = folder, minio.endpoint

    def put_source(self, documents: list[str]) -> str:
        """Put the source, or another one in its place; return its version."""
        data = "\n".join(json.dumps({"body": text}) for text in documents).encode()
        put = self.client.put_object(self.bucket, KEY, io.BytesIO(data), len(data))
        assert put.version_id is not None
        return put.version_id

    def configure(self, run: str, place: str = "models", **data: Any) -> RunConfig:
        sources = [{**JSONL_DATA["sources"][0], "uri": f"s3://{self.bucket}/corpus/*.jsonl"}]
        uri = f"s3://{self.bucket}/{place}"
        return configure_tiny_run(
            self._folder,
            run=run,
            run_uri=f"{uri}/runs/{run}",
            data={**JSONL_DATA, "sources": sources, **data},
            storage={
                "uri": uri,
                "localRoot": None,
                "endpoint": self._endpoint,
                "credentialsDirectory": str(self._folder),
            },
        )


@pytest.fixture
def versions(minio: MinioServer, tmp_path: Path) -> Versions:
    return Versions(minio, tmp_path)


def test_a_source_may_be_replaced_and_deleted_during_a_run_and_behind_it(
    versions: Versions,
) -> None:
    version = versions.put_source(DOCUMENTS)
    config = versions.configure("first")
    resolve_inputs(config)  # a first task has begun
    versions.put_source(DOCUMENTS[1:])
    made = prepare(config)
    manifest = read_manifest(config, made)
    assert made.documents == len(DOCUMENTS)
    assert [source.version for source in manifest.sources] == [version]

    newer = versions.configure("second")
    assert prepare(newer).documents == len(DOCUMENTS) - 1
    versions.client.remove_object(versions.bucket, KEY)
    pins = f"s3://{versions.bucket}/models/datasets/{made.dataset}/manifest.json"
    again = versions.configure("again", place="elsewhere", pins=pins)
    result = prepare(again)
    assert result.dataset == made.dataset
    assert not result.dataset_reused
    assert read_manifest(again, result) == manifest


def test_a_version_that_is_gone_is_named(versions: Versions) -> None:
    version = versions.put_source(DOCUMENTS)
    config = versions.configure("gone")
    (file,) = resolve_inputs(config).documents
    versions.client.remove_object(versions.bucket, KEY, version_id=version)
    with pytest.raises(DataError, match=rf"a\.jsonl has no version {version} any more") as failed:
        prepare(config)
    assert failed.value.reason == "SourceChanged"
    with pytest.raises(DataError, match="any more"):
        list(iterate_lines(Portion(file, 10, 20)))


def test_a_record_that_does_not_fit_is_refused(versions: Versions) -> None:
    versions.put_source(DOCUMENTS)
    first = versions.configure("first")
    fields = read_manifest(first, prepare(first)).dump()
    store = open_store(f"s3://{versions.bucket}/other", first.storage)
    config = versions.configure("wrong", pins=f"{store.uri}/manifest.json")
    foreign = {"source": 0, "uri": "s3://b/k", "size": 1, "etag": "e"}
    cases: list[tuple[dict[str, Any] | None, str]] = [
        (None, "is not the manifest of a dataset"),
        ({"pins": None}, "kept no record"),
        ({"pins": {"documents": []}}, "objects of other sources than data.sources"),
        ({"pins": {"documents": [foreign]}}, "is none of data.sources[0]"),
    ]
    for changed, why in cases:
        if changed is not None:
            store.write_bytes("manifest.json", json.dumps({**fields, **changed}).encode())
        with pytest.raises(DataError) as failed:
            resolve_inputs(config)
        assert why in failed.value.message
        assert failed.value.reason == "PinsInvalid"
