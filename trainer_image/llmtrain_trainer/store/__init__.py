"""Where everything is kept: an object store by S3, or a folder that stands for one.

Below: `s3` (MinIO and any other S3 server) and `folder` behind the protocol of `protocol`, with
the errors of `errors`; `probe` asks a store whether it keeps the promise of `create_bytes`.
Above: every stage opens its stores here. URIs are s3://bucket/key in both worlds.
"""

from __future__ import annotations

from pathlib import Path

from llmtrain_api.run import StorageConfig
from llmtrain_trainer.store.errors import (
    AccessDeniedError,
    BucketMissingError,
    CredentialsMissingError,
    ObjectExistsError,
    ObjectMissingError,
    StorageUnreachableError,
)
from llmtrain_trainer.store.folder import FolderStore
from llmtrain_trainer.store.protocol import Store, StoredObject

__all__ = [
    "AccessDeniedError",
    "BucketMissingError",
    "CredentialsMissingError",
    "ObjectExistsError",
    "ObjectMissingError",
    "StorageUnreachableError",
    "Store",
    "StoredObject",
    "open_store",
    "split_uri",
]


def open_store(uri: str, config: StorageConfig) -> Store:
    """Open the store rooted at `uri`; nothing is asked of it yet.

    Raises:
        CredentialsMissingError: where the folder of credentials lacks a file.
    """
    bucket, prefix = split_uri(uri)
    if config.local_root is not None:
        return FolderStore(Path(config.local_root), bucket, prefix)
    # Importing the S3 client takes half a second of processor time, which a folder needs not.
    from llmtrain_trainer.store.s3 import S3Store

    return S3Store(bucket, prefix, config)


def split_uri(uri: str) -> tuple[str, str]:
    """Split s3://bucket/key into bucket and key; the key may be empty."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key
