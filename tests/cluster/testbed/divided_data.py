"""Data that several tasks prepare together, and the same prepared by one that nothing disturbs.

Below: Python's own documentation, `tiny_run`. Above: tests that kill tasks, on this machine and on
real nodes.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from llmtrain_api.naming import locate_dataset
from llmtrain_api.run import StorageConfig
from llmtrain_trainer.preparation.claims import ALIVE
from llmtrain_trainer.prepare import run_prepare
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.store import open_store
from testbed.minio import MinioServer
from testbed.tiny_run import configure_tiny_run

NUM_TASKS = 4
NUM_FILES = 5
COPIES = 19
"""Of each topic in a file, each with other words: a file holds what is a unit of work by itself."""


def describe_data(bucket: str) -> dict[str, Any]:
    """Return the recipe for what `write_files` puts into a bucket."""
    return {
        "sources": [{"uri": f"s3://{bucket}/topics/"}],
        "privacy": {"action": "replace"},
        "tokenizer": {"kind": "bpe"},
        "split": {"method": "document", "validationFraction": 0.1},
    }


def write_files(minio: MinioServer, bucket: str) -> None:
    """Put a corpus of many files into a bucket."""
    client = minio.connect()
    for number in range(NUM_FILES):
        lines = [
            json.dumps({"text": text.replace(" ", f" {number}{copy} ", 200)})
            for copy in range(COPIES)
            for text in topics.values()
        ]
        data = "\n".join(lines).encode()
        client.put_object(bucket, f"topics/{number:02d}.jsonl", io.BytesIO(data), len(data))


def prepare_undisturbed(
    minio: MinioServer, folder: Path, data: dict[str, Any], uri: str
) -> tuple[str, StorageConfig]:
    """Prepare data by one task; return the dataset's fingerprint, and how its store is reached.

    Args:
        minio: where the sources are.
        folder: for the keys of the store.
        data: the recipe.
        uri: below which the dataset comes to lie.
    """
    keys = folder / "keys"
    keys.mkdir()
    (keys / "accessKey").write_text(minio.access_key)
    (keys / "secretKey").write_text(minio.secret_key)
    config = configure_tiny_run(
        folder,
        run="reference",
        run_uri=f"{uri}/run",
        data=data,
        storage={
            "uri": uri,
            "localRoot": None,
            "endpoint": minio.endpoint,
            "credentialsDirectory": str(keys),
        },
    )
    result = run_prepare(config, Reporter(0, lambda update: None))
    return str(result.dataset), config.storage


def read_digests(uri: str, fingerprint: str, storage: StorageConfig) -> dict[str, str]:
    """Return the digest of each object that the manifest of a dataset lists, and what lies there
    beside them. The last sign of life of a task may outlast the sweep: its pod is deleted once
    task 0 is done, and a pod that is killed deletes nothing. The next job with this data does.
    """
    store = open_store(locate_dataset(uri, fingerprint), storage)
    manifest = json.loads(store.read_bytes("manifest.json"))
    listed = {item["key"]: item["sha256"] for item in manifest["objects"]}
    others = {
        item.key: ""
        for item in store.list_objects()
        if item.key not in listed and not item.key.startswith(ALIVE)
    }
    return {**listed, **others}
