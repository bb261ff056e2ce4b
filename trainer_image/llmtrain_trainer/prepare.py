"""The preparation stage: from sources in the store to a dataset in the store.

Below: `preparation`, one module for each step of the recipe; `tokenization`, and `shards` for how
tokens lie in the store. Above: the agent calls `run_prepare` in one process; `train` and
`evaluate` find the data through the run's `dataset.json`.

A dataset is addressed by a digest of all that it follows from, so that jobs that want the same
data prepare it once. Its manifest is created last: two jobs that prepare it at the same time
write the same bytes, and one of them commits.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from llmtrain_api.data import DataSpec, TokenizerKind
from llmtrain_api.naming import locate_dataset
from llmtrain_api.records import RankPhase, StageResult
from llmtrain_api.run import RunConfig, StorageConfig
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.manifest import ManifestObject, describe_file
from llmtrain_trainer.preparation.collect import Collection
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.refine import choose_steps, divide_documents, refine_documents
from llmtrain_trainer.preparation.sources import SourceFile, find_source_files
from llmtrain_trainer.preparation.splits import divide_into_batches, split_documents
from llmtrain_trainer.preparation.spool import Spool
from llmtrain_trainer.preparation.tally import Tally
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.shards import (
    COUNT_TYPE,
    DATASET,
    MANIFEST,
    REJECTED,
    TOKENIZER,
    TRAIN_COUNTS,
    DatasetManifest,
    RunDataset,
    ShardWriter,
    SplitManifest,
    count_tokens,
)
from llmtrain_trainer.store import ObjectExistsError, Store, open_store
from llmtrain_trainer.tokenization import TextEncoder, fetch_tokenizer, make_tokenizer

RECIPE_VERSION = 2
"""Raise it with every change after which the same text becomes other tokens."""

FINGERPRINT_CHARACTERS = 32
"""128 bits: no two recipes will ever share one by chance."""


def run_prepare(config: RunConfig, reporter: Reporter) -> StageResult:
    """Prepare the run's data, or find it prepared.

    Raises:
        DataError: where a source holds nothing, or what cannot be read, or too little to split.
        StoreError: where the store fails.
    """
    files = find_files(config.data, config.storage)
    fingerprint = compute_fingerprint(config.data, files, config.storage)
    uri = locate_dataset(config.storage.uri, fingerprint)
    store = open_store(uri, config.storage)
    reused = store.find_object(MANIFEST) is not None
    if not reused:
        with tempfile.TemporaryDirectory(prefix="llmtrain-prepare-") as name:
            manifest = build_dataset(config, files, fingerprint, store, Path(name), reporter)
        try:
            store.create_bytes(MANIFEST, manifest.model_dump_json(by_alias=True).encode())
        except ObjectExistsError:
            reused = True
    manifest = DatasetManifest.model_validate_json(store.read_bytes(MANIFEST))
    record = RunDataset(fingerprint=fingerprint, uri=uri)
    run_store = open_store(config.run_uri, config.storage)
    run_store.write_bytes(DATASET, record.model_dump_json(by_alias=True).encode())
    reporter.enter(RankPhase.FINISHED)
    return StageResult(
        dataset=fingerprint,
        documents=manifest.num_documents,
        train_tokens=manifest.train.num_tokens,
        validation_tokens=manifest.validation.num_tokens,
        vocabulary_size=manifest.vocabulary_size,
        dataset_reused=reused,
    )


def find_files(data: DataSpec, storage: StorageConfig) -> list[SourceFile]:
    """Return the objects of all sources, in their order."""
    return [
        file
        for index, source in enumerate(data.sources)
        for file in find_source_files(source, storage, index=index)
    ]


def compute_fingerprint(data: DataSpec, files: list[SourceFile], storage: StorageConfig) -> str:
    """Return the digest of all that the data follows from; no text is read for it."""
    facts: dict[str, Any] = {
        "version": RECIPE_VERSION,
        # How sources were named does not matter, which objects they named does.
        "recipe": data.dump() | {"sources": None},
        "files": [
            {
                **file.source.dump(),
                "uri": file.uri,
                "size": file.stored.size,
                "etag": file.stored.etag,
            }
            for file in files
        ],
    }
    if data.tokenizer.uri is not None:
        listing = open_store(data.tokenizer.uri, storage).list_objects()
        facts["tokenizerFiles"] = [(item.key, item.etag) for item in listing]
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_CHARACTERS]


def build_dataset(
    config: RunConfig,
    files: list[SourceFile],
    fingerprint: str,
    store: Store,
    scratch: Path,
    reporter: Reporter,
) -> DatasetManifest:
    """Make tokens of the sources and upload them; return the manifest that is to commit them."""
    data = config.data
    output = scratch / "dataset"
    output.mkdir()

    with closing(Spool(scratch / "documents")) as spool:
        collection = Collection(files, data.invalid, scratch, output / REJECTED)
        refined = refine_into(spool, collection.read(reporter.report), data)
        encoder = _make_encoder(config, spool, output / TOKENIZER)
        train, validation = write_splits(spool, data, encoder, output, reporter)
    _write_counts(output, train, encoder)
    return DatasetManifest(
        fingerprint=fingerprint,
        recipe=data,
        sources=collection.sources,
        steps=[tally.record() for tally in (collection.tally, *refined)],
        num_documents=collection.tally.documents_out,
        vocabulary_size=encoder.vocabulary_size,
        end_of_text=encoder.end_of_text,
        token_type="<u2" if encoder.token_type.itemsize == 2 else "<u4",
        train=train,
        validation=validation,
        objects=upload_folder(store, output),
    )


def refine_into(spool: Spool, documents: Iterable[Document], data: DataSpec) -> list[Tally]:
    """Apply the steps for single documents; spool what they leave, and return their counts.

    Raises:
        DataError: where they leave nothing.
    """
    steps = choose_steps(data)
    tallies = [Tally(step.name) for step in steps]
    for batch in divide_documents(documents):
        refined = refine_documents(batch, steps)
        for document in refined.documents:
            spool.append(document)
        for tally, part in zip(tallies, refined.tallies, strict=True):
            tally.add(part)
    if len(spool) == 0:
        raise DataError(
            f"data.clean leaves out every document; the last by {tallies[-1].step}",
            reason="DatasetEmpty",
            next_step="loosen data.clean, or look at the sources",
        )
    return tallies


def write_splits(
    spool: Spool, data: DataSpec, encoder: TextEncoder, output: Path, reporter: Reporter
) -> tuple[SplitManifest, SplitManifest]:
    """Encode the spooled documents; write the shards of training and held-out text.

    Raises:
        DataError: where one of the two is empty.
    """
    weights = [source.weight for source in data.sources]
    train, validation = ShardWriter(output, "train"), ShardWriter(output, "validation")
    for batch in divide_into_batches(split_documents(spool.read(), data.split, weights)):
        reporter.report()
        encoded = encoder.encode([piece.text for piece in batch])
        for piece, tokens in zip(batch, encoded, strict=True):
            writer = validation if piece.is_validation else train
            for _ in range(piece.copies):
                writer.append(tokens, num_bytes=len(piece.text.encode()))
    train_split, validation_split = train.finish(), validation.finish()
    if train_split is None or validation_split is None:
        raise DataError(
            f"data.split puts all {len(spool)} documents on one side",
            reason="SplitEmpty",
            next_step="hold out the ends of documents by data.split.method: tail, or add text",
        )
    return train_split, validation_split


def upload_folder(store: Store, folder: Path) -> list[ManifestObject]:
    """Upload every file below `folder`; return what the store then holds."""
    objects = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        item = describe_file(path, path.relative_to(folder).as_posix())
        store.upload(item.key, path)
        objects.append(item)
    return objects


def _make_encoder(config: RunConfig, spool: Spool, folder: Path) -> TextEncoder:
    spec = config.data.tokenizer
    if spec.kind is TokenizerKind.PRETRAINED:
        assert spec.uri is not None
        return fetch_tokenizer(open_store(spec.uri, config.storage), folder)
    if spec.kind is TokenizerKind.BPE:
        weights = [source.weight for source in config.data.sources]
        pieces = split_documents(spool.read(), config.data.split, weights)
        return make_tokenizer(spec, (p.text for p in pieces if not p.is_validation), folder)
    return make_tokenizer(spec, (document.text for document in spool.read()), folder)


def _write_counts(output: Path, train: SplitManifest, encoder: TextEncoder) -> None:
    shards = [
        np.memmap(output / shard.tokens, dtype=encoder.token_type, mode="r")
        for shard in train.shards
    ]
    counts = count_tokens(shards, encoder.vocabulary_size)
    (output / TRAIN_COUNTS).write_bytes(counts.astype(COUNT_TYPE).data)
