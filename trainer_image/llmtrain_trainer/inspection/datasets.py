"""`llmtrain data`: what a dataset was made of, who used a source or a document, and after whom.

Below: `shards`, `document_index`, `store`. Above: `data_commands`. Only manifests are read, and
indices of documents, no data.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from llmtrain_api.naming import locate_dataset
from llmtrain_api.run import RUN_RECORD, StorageConfig
from llmtrain_trainer.dataset.document_index import DOCUMENTS, find_entry, make_entry
from llmtrain_trainer.dataset.shards import DATASET, MANIFEST, DatasetManifest, RunDataset
from llmtrain_trainer.failures import ConfigurationError, StoreError
from llmtrain_trainer.store import Store, open_store

DATASETS, RUNS = "datasets/", "runs/"
MEBIBYTE = 1024**2


def read_dataset_manifest(store: Store) -> DatasetManifest:
    """Return the manifest of the dataset that `store` is rooted at.

    Raises:
        StoreError: where there is none, or it cannot be read.
    """
    try:
        return DatasetManifest.model_validate_json(store.read_bytes(MANIFEST))
    except ValidationError as error:
        raise StoreError(
            f"{store.uri}/{MANIFEST} is of another version of llmtrain",
            reason="DatasetDamaged",
            next_step="use the version that made the dataset",
        ) from error


def print_dataset(store: Store, console: Console) -> int:
    """Print what the dataset that `store` is rooted at was made of; the exit code is 0.

    Raises:
        StoreError: where there is none, or its manifest cannot be read.
    """
    manifest = read_dataset_manifest(store)
    console.print(f"{store.uri}\n", highlight=False, soft_wrap=True)
    sources = Table("source", "MiB", "SHA-256", "version", box=None)
    for source in manifest.sources:
        size = f"{source.size / MEBIBYTE:.1f}"
        sources.add_row(source.uri, size, source.sha256[:16], source.version)
    steps = Table("step", "documents in", "out", "changed", "by rule", box=None)
    for step in manifest.steps:
        rules = ", ".join(f"{rule} {found.count}" for rule, found in step.rules.items())
        counts = (step.documents_in, step.documents_out, step.documents_changed)
        steps.add_row(step.step, *map(str, counts), rules)
    splits = Table("split", "documents", "tokens", "MiB of text", box=None)
    parts = {"train": manifest.train, "validation": manifest.validation, "test": manifest.test}
    for name, split in parts.items():
        if split is None:
            continue
        size = f"{split.num_bytes / MEBIBYTE:.1f}"
        splits.add_row(name, str(split.num_documents), str(split.num_tokens), size)
    for table in (sources, steps, splits):
        console.print(table, "")
    if manifest.leakage is not None:
        leakage = manifest.leakage
        console.print(
            f"{leakage.near_copies} of {leakage.documents} held-out documents have a near copy in"
            " training",
            highlight=False,
            soft_wrap=True,
        )
    if manifest.tokenizer is not None:
        console.print(
            f"{manifest.recipe.tokenizer.kind.value} tokenizer of"
            f" {manifest.vocabulary_size} tokens:"
            f" {manifest.tokenizer.tokens_per_word:.2f} for a word,"
            f" {manifest.tokenizer.bytes_per_token:.2f} bytes each,"
            f" {manifest.tokenizer.unknown_rate:.4%} unknown",
            highlight=False,
            soft_wrap=True,
        )
    return 0


def print_lineage(store: Store, console: Console, source: str) -> int:
    """Print which datasets below `store` were made of a source, and which runs used them.

    Args:
        store: rooted where datasets/ and runs/ are.
        console: is printed to.
        source: URI of an object, a glob over URIs, or the beginning of a SHA-256.

    Returns:
        0, or 1 where no dataset was made of it.
    """
    runs = find_runs(store)
    table = Table("dataset", "source", "SHA-256", "run", box=None)
    for manifest in iterate_datasets(store, console):
        for used in manifest.sources:
            if fnmatchcase(used.uri, source) or used.sha256.startswith(source):
                users = "\n".join(runs[manifest.fingerprint])
                table.add_row(manifest.fingerprint, used.uri, used.sha256[:16], users)
    if table.row_count == 0:
        console.print(f"no dataset in {store.uri} was made of {source}", soft_wrap=True)
        return 1
    console.print(table)
    return 0


def print_document_lineage(
    store: Store, storage: StorageConfig, console: Console, document: str
) -> int:
    """Print which datasets below `store` hold a document, and which runs used them.

    Args:
        store: rooted where datasets/ and runs/ are.
        storage: how stores are reached.
        console: is printed to.
        document: the SHA-256 of its text as it was read, or id: and its id.

    Returns:
        0, or 1 where no dataset holds it.

    Raises:
        ConfigurationError: where the document is named in another way.
        StoreError: where the store fails.
    """
    entry = make_entry(document)
    if entry is None:
        raise ConfigurationError(
            "the document is named neither by a SHA-256 nor by its id",
            reason="DocumentNameInvalid",
            next_step="give the 64 hexadecimal digits of its text as read, or id: and its id",
        )
    runs = find_runs(store)
    table = Table("dataset", "run", box=None)
    for manifest in iterate_datasets(store, console):
        sizes = [item.size for item in manifest.objects if item.key == DOCUMENTS]
        if not sizes:
            said = f"dataset {manifest.fingerprint} is of an older version, which kept no index"
            console.print(said, highlight=False, soft_wrap=True)
            continue
        dataset = open_store(locate_dataset(store.uri, manifest.fingerprint), storage)
        if find_entry(dataset, sizes[0], entry):
            table.add_row(manifest.fingerprint, "\n".join(runs[manifest.fingerprint]))
    if table.row_count == 0:
        console.print(f"no dataset in {store.uri} holds the document", soft_wrap=True)
        return 1
    console.print(table)
    return 0


def iterate_datasets(store: Store, console: Console) -> Iterator[DatasetManifest]:
    """Yield the manifest of each dataset below `store`; those that cannot be read are named."""
    for item in store.list_objects(DATASETS):
        if item.key.rpartition("/")[2] != MANIFEST:
            continue
        try:
            yield DatasetManifest.model_validate_json(store.read_bytes(item.key))
        except ValidationError:
            console.print(f"{store.uri}/{item.key} cannot be read", soft_wrap=True)


def find_runs(store: Store) -> defaultdict[str, list[str]]:
    """Return the runs below `store` by the dataset that they use, each with where it came from."""
    runs: defaultdict[str, list[str]] = defaultdict(list)
    for item in store.list_objects(RUNS):
        if item.key.endswith(f"/{DATASET}"):
            record = RunDataset.model_validate_json(store.read_bytes(item.key))
            run = item.key.removesuffix(f"/{DATASET}")
            told = {}
            if store.find_object(f"{run}/{RUN_RECORD}") is not None:
                told = json.loads(store.read_bytes(f"{run}/{RUN_RECORD}"))
            runs[record.fingerprint].append(", ".join([run, *describe_origins(told)]))
    return runs


def describe_origins(record: Mapping[str, Any]) -> list[str]:
    """Say what a run came from: the run before it, a checkpoint, a pretrained model.

    Args:
        record: its `run.json`; empty where an older version kept none.
    """
    origins = []
    if record.get("parent"):
        origins.append(f"made after {record['parent']}")
    restored = record.get("checkpoint", {}).get("restoreFrom")
    if restored:
        step = f" from step {restored['step']}" if "step" in restored else ""
        origins.append(f"goes on with {restored.get('uri') or restored['job']}{step}")
    pretrained = record.get("model", {}).get("from")
    if pretrained:
        origins.append(f"begins with {pretrained}")
    return origins
