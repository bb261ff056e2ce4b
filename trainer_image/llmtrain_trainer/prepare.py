"""The preparation stage: from text in the store to a dataset in the store.

Below, in the order of use: `documents` (what the sources hold), `tokenization`, `shards` (how
tokens lie in the store). Above: the agent calls `run_prepare` in one process; `train` and
`evaluate` find the data through the run's `dataset.json`.

A dataset is addressed by a digest of all that it follows from, so that jobs that want the same
data prepare it once. Its manifest is created last: two jobs that prepare it at the same time
write the same bytes, and one of them commits.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmtrain_api.data import DataSpec, SplitMethod, TokenizerKind
from llmtrain_api.data import Split as SplitSpec
from llmtrain_api.naming import locate_dataset
from llmtrain_api.records import RankPhase, StageResult
from llmtrain_api.run import RunConfig, StorageConfig
from llmtrain_trainer.documents import SourceFile, find_source_files, read_documents
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.manifest import ManifestObject, describe_file
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.shards import (
    COUNT_TYPE,
    DATASET,
    MANIFEST,
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

RECIPE_VERSION = 1
"""Raise it with every change after which the same text becomes other tokens."""

FINGERPRINT_CHARACTERS = 32
"""128 bits: no two recipes will ever share one by chance."""

BATCH_CHARACTERS = 4 * 1024 * 1024
"""Text that is encoded at once; its tokens take some hundred bytes each while that lasts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A document, or the part of it that is on one side of the split."""

    text: str
    is_validation: bool


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
        for file in find_source_files(source, storage, field=f"data.sources[{index}]")
    ]


def compute_fingerprint(data: DataSpec, files: list[SourceFile], storage: StorageConfig) -> str:
    """Return the digest of all that the data follows from; no text is read for it."""
    facts = {
        "version": RECIPE_VERSION,
        "tokenizer": data.tokenizer.dump(),
        "split": data.split.dump(),
        "files": [
            {**file.describe().dump(), "format": file.format.value, "field": file.text_field}
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
    texts = Texts(files, scratch, reporter)
    output = scratch / "dataset"
    output.mkdir()
    encoder = _make_encoder(config, texts, output / TOKENIZER)

    train = ShardWriter(output, "train")
    validation = ShardWriter(output, "validation")
    for batch in divide_into_batches(split_documents(texts.read(), data.split)):
        encoded = encoder.encode([piece.text for piece in batch])
        for piece, tokens in zip(batch, encoded, strict=True):
            writer = validation if piece.is_validation else train
            writer.append(tokens, num_bytes=len(piece.text.encode()))
    train_split, validation_split = train.finish(), validation.finish()
    if train_split is None or validation_split is None:
        raise DataError(
            f"data.split puts all {texts.num_documents} documents on one side",
            reason="SplitEmpty",
            next_step="hold out the ends of documents by data.split.method: tail, or add text",
        )
    _write_counts(output, train_split, encoder)
    return DatasetManifest(
        fingerprint=fingerprint,
        recipe=data,
        sources=[file.describe() for file in files],
        num_documents=texts.num_documents,
        vocabulary_size=encoder.vocabulary_size,
        end_of_text=encoder.end_of_text,
        token_type="<u2" if encoder.token_type.itemsize == 2 else "<u4",
        train=train_split,
        validation=validation_split,
        objects=upload_folder(store, output),
    )


class Texts:
    """The text of the sources, downloaded once and read as often as it is needed."""

    def __init__(self, files: list[SourceFile], scratch: Path, reporter: Reporter) -> None:
        """Download to `scratch` when a file is first read."""
        self._files = files
        self._scratch = scratch
        self._reporter = reporter
        self.num_documents = 0
        """Documents of the newest reading."""

    def read(self) -> Iterator[str]:
        """Yield the text of every document, in the order of the sources."""
        self.num_documents = 0
        for index, file in enumerate(self._files):
            path = self._scratch / f"source-{index:05d}"
            if not path.exists():
                file.store.download(file.stored.key, path)
                if path.stat().st_size != file.stored.size:
                    raise DataError(
                        f"{file.uri} changed while it was read",
                        reason="SourceChanged",
                        next_step="start the job when nothing writes to its sources",
                    )
            self._reporter.report()
            for text in read_documents(file, path):
                self.num_documents += 1
                yield text


def split_documents(texts: Iterable[str], split: SplitSpec) -> Iterator[Piece]:
    """Divide documents over the two sides; pieces come in the order of the text."""
    for text in texts:
        if split.method is SplitMethod.DOCUMENT:
            share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
            yield Piece(text=text, is_validation=share < split.validation_fraction)
        else:
            cut = len(text) - round(len(text) * split.validation_fraction)
            if cut > 0:
                yield Piece(text=text[:cut], is_validation=False)
            if cut < len(text):
                yield Piece(text=text[cut:], is_validation=True)


def divide_into_batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Gather pieces until a batch holds about `BATCH_CHARACTERS`."""
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def upload_folder(store: Store, folder: Path) -> list[ManifestObject]:
    """Upload every file below `folder`; return what the store then holds."""
    objects = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        item = describe_file(path, path.relative_to(folder).as_posix())
        store.upload(item.key, path)
        objects.append(item)
    return objects


def _make_encoder(config: RunConfig, texts: Texts, folder: Path) -> TextEncoder:
    spec = config.data.tokenizer
    if spec.kind is TokenizerKind.PRETRAINED:
        assert spec.uri is not None
        return fetch_tokenizer(open_store(spec.uri, config.storage), folder)
    if spec.kind is TokenizerKind.BPE:
        pieces = split_documents(texts.read(), config.data.split)
        return make_tokenizer(spec, (p.text for p in pieces if not p.is_validation), folder)
    return make_tokenizer(spec, texts.read(), folder)


def _write_counts(output: Path, train: SplitManifest, encoder: TextEncoder) -> None:
    shards = [
        np.memmap(output / shard.tokens, dtype=encoder.token_type, mode="r")
        for shard in train.shards
    ]
    counts = count_tokens(shards, encoder.vocabulary_size)
    (output / TRAIN_COUNTS).write_bytes(counts.astype(COUNT_TYPE).data)
