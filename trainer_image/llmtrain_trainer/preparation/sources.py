"""Which objects the sources of a manifest name, and that they stay what they were.

Below: `store`, `dataset_directory`. Above: `pins` finds them for `prepare` first of all, because
the dataset's fingerprint follows from what the store says of them; no text is read for that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from llmtrain_api.data import DataSpec
from llmtrain_api.run import StorageConfig
from llmtrain_api.sources import Source, SourceFormat
from llmtrain_trainer.dataset.shards import SourceObject
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.preparation.dataset_directory import choose_split_files, is_saved_dataset
from llmtrain_trainer.store import (
    ObjectMissingError,
    Store,
    StoredObject,
    open_store,
    split_uri,
)

GLOB_CHARACTERS = "*?["


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """An object of a source."""

    store: Store
    """Rooted at the bucket."""

    stored: StoredObject
    source: Source
    """How it is read."""

    index: int
    """Of the source, in its list."""

    field: str
    """Name of the source in the manifest, as data.sources[0]."""

    @property
    def uri(self) -> str:
        """Where it lies."""
        return f"{self.store.uri}/{self.stored.key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Every object that a recipe reads."""

    documents: list[SourceFile]

    against: list[SourceFile]
    """Sets to evaluate on."""

    erase: list[SourceFile]
    """Lists of documents that must not be used."""

    relabel: list[SourceFile]
    """Lists of documents whose label is wrong."""


def find_inputs(data: DataSpec, config: StorageConfig) -> Inputs:
    """Return every object that a recipe reads.

    Raises:
        DataError: where a source names no object.
        StoreError: where the store fails or lacks the bucket.
    """
    against, erase = data.deduplicate.against, data.privacy.erase
    return Inputs(
        documents=find_source_files(data.sources, config, field="data.sources"),
        against=find_source_files(against, config, field="data.deduplicate.against"),
        erase=find_source_files(erase, config, field="data.privacy.erase"),
        relabel=find_source_files(data.relabel, config, field="data.relabel"),
    )


def find_source_files(
    sources: Sequence[Source], config: StorageConfig, *, field: str
) -> list[SourceFile]:
    """Return the objects of all sources, in their order.

    Args:
        sources: a list of the manifest.
        config: how the store is reached.
        field: name of the list, for messages.

    Raises:
        DataError: where a source names no object.
        StoreError: where the store fails or lacks the bucket.
    """
    return [
        SourceFile(store=store, stored=stored, source=source, index=i, field=f"{field}[{i}]")
        for i, source in enumerate(sources)
        for store, stored in _find_objects(source, config, f"{field}[{i}]")
    ]


def _find_objects(
    source: Source, config: StorageConfig, field: str
) -> list[tuple[Store, StoredObject]]:
    """Return the objects that a source names, in order of their keys.

    The source is an object, a prefix that ends in /, or a glob whose * does not stop at /. Those of
    a Hugging Face dataset come in the order of its rows.
    """
    bucket, key = split_uri(source.uri)
    store = open_store(f"s3://{bucket}", config)
    if any(character in key for character in GLOB_CHARACTERS):
        prefix = key[: min(key.find(c) for c in GLOB_CHARACTERS if c in key)]
        found = [item for item in store.list_versions(prefix) if fnmatchcase(item.key, key)]
    elif not key or key.endswith("/"):
        found = list(store.list_versions(key))
    else:
        found = [item for item in store.list_versions(key) if item.key == key]
    # Consoles make empty objects whose key ends in / and show them as folders.
    found = [item for item in found if not item.key.endswith("/")]
    if not found:
        raise DataError(
            f"{field}.uri: no object matches {source.uri}",
            reason="SourceEmpty",
            next_step="upload the text there, or correct the URI; a prefix ends in /",
        )
    if source.format is SourceFormat.HUGGINGFACE:
        found = choose_split_files(store, found, key, source.split, field)
    elif source.format is None and is_saved_dataset({i.key.removeprefix(key) for i in found}):
        raise DataError(
            f"{field}.uri: {source.uri} is a Hugging Face dataset",
            reason="DatasetDirectoryInvalid",
            next_step=f"set {field}.format to huggingface",
        )
    return [(store, item) for item in found]


def fetch_source_file(file: SourceFile, path: Path) -> SourceObject:
    """Download a source file to `path`; return what the dataset's manifest says of it.

    Raises:
        DataError: where it is no longer what was found, or not what the manifest pins.
        StoreError: where the store fails.
    """
    try:
        file.store.download(file.stored.key, path, version=file.stored.version)
    except ObjectMissingError:
        raise explain_change(file) from None
    check_unchanged(file)
    with path.open("rb") as content:
        return describe_source(file, hashlib.file_digest(content, "sha256").hexdigest())


def check_unchanged(file: SourceFile) -> None:
    """Check that a source file, of which something was just read, is still what was found.

    What was read by its version is what was found, whatever lies in its place by now.

    Raises:
        DataError: where it is not.
        StoreError: where the store fails.
    """
    if file.stored.version is None and file.store.find_object(file.stored.key) != file.stored:
        raise explain_change(file)


def explain_change(file: SourceFile) -> DataError:
    """Return the failure that a source file is not there any more as it was found."""
    if file.stored.version is not None:
        return DataError(
            f"{file.uri} has no version {file.stored.version} any more",
            reason="SourceChanged",
            next_step="keep versions while jobs read them, or start a new job from what is there",
        )
    return DataError(
        f"{file.uri} changed while it was read",
        reason="SourceChanged",
        next_step="start the job when nothing writes to its sources, or turn on the bucket's "
        "versioning, so that jobs read the versions that they began with",
    )


def describe_source(file: SourceFile, digest: str) -> SourceObject:
    """Return what the dataset's manifest says of a source file with this SHA-256.

    Raises:
        DataError: where the manifest pins another one.
    """
    if file.source.sha256 not in (None, digest):
        raise DataError(
            f"{file.uri} has the SHA-256 {digest}, not that of {file.field}.sha256",
            reason="SourceChanged",
            next_step="restore the object, or pin its new digest",
        )
    return SourceObject(
        uri=file.uri,
        size=file.stored.size,
        etag=file.stored.etag,
        version=file.stored.version,
        sha256=digest,
    )
