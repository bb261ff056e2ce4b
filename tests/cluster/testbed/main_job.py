"""A job from the examples with what this machine gives it: a store, a corpus, fewer steps.

Below: `manifests/examples`, `minio`. Above: the end-to-end test and the benchmark of starting.
"""

from __future__ import annotations

import io
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import yaml

from testbed.minio import MinioServer
from testbed.requirements import find_repository

EXAMPLE = "cpu"
CORPUS_BUCKET = "corpus"
MODELS_BUCKET = "models"
NUM_BOOKS = 3


def write_books() -> dict[str, str]:
    """A real corpus by object key: the language reference that every Python carries."""
    chapters = [text for _, text in sorted(topics.items())]
    return {
        f"books/{number}.txt": "\n\n".join(chapters[number::NUM_BOOKS])
        for number in range(NUM_BOOKS)
    }


def fill_folder(store: Path) -> None:
    """Lay the corpus where a local run looks for s3://corpus."""
    for key, text in write_books().items():
        path = store / CORPUS_BUCKET / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def fill_minio(minio: MinioServer) -> None:
    """Make the example's buckets, and put the corpus into one of them."""
    client = minio.connect()
    for bucket in (CORPUS_BUCKET, MODELS_BUCKET):
        if not client.bucket_exists(bucket):
            client.make_bucket(bucket)
    for key, text in write_books().items():
        content = text.encode()
        client.put_object(CORPUS_BUCKET, key, io.BytesIO(content), len(content))


def render_credentials(minio: MinioServer, namespace: str) -> dict[str, Any]:
    """The Secret that the example names."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "minio-credentials", "namespace": namespace},
        "stringData": {"accessKey": minio.access_key, "secretKey": minio.secret_key},
    }


def render_job(minio: MinioServer, *, steps: int, every_steps: int) -> dict[str, Any]:
    """The example as it is shipped but for the store's address, its length and its cores."""
    example = find_repository() / "manifests" / "examples" / f"{EXAMPLE}.yaml"
    job: dict[str, Any] = yaml.safe_load(example.read_text())
    spec = job["spec"]
    spec["storage"]["endpoint"] = minio.endpoint
    # `auto` measures which arithmetic is fastest, and two runs may choose differently.
    spec["training"] |= {"steps": steps, "precision": "fp32"}
    spec["evaluation"]["everySteps"] = steps // 2
    spec["checkpoint"]["everySteps"] = every_steps
    # Both nodes are this machine's two cores, and the operator wants a little of one.
    spec["workers"]["resources"] = {"cpu": 1, "memory": "4Gi"}
    return job
