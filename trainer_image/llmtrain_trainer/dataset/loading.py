"""Reading prepared data: two streams of tokens, mapped into memory.

Below: `shards` (how it lies in the store), `store`, whose `host_cache` keeps a dataset on the host.
Above: `train` and `evaluate`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from llmtrain_api.run import RunConfig
from llmtrain_trainer.dataset.facts import NO_FACTS, Facts
from llmtrain_trainer.dataset.shards import (
    COUNT_TYPE,
    DATASET,
    MANIFEST,
    OFFSET_TYPE,
    TOKENIZER,
    TRAIN_COUNTS,
    DatasetManifest,
    RunDataset,
    SplitManifest,
    count_tokens,
)
from llmtrain_trainer.failures import StoreError
from llmtrain_trainer.store import Store, open_store
from llmtrain_trainer.store.host_cache import (
    download_objects,
    find_host_folder,
    is_whole,
    lock_folder,
)
from llmtrain_trainer.tokenizer.marks import Role
from llmtrain_trainer.tokenizer.special_tokens import SpecialTokens

NO_DOCUMENT = -1
"""The number of what fills rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where the tokens of sequences come from."""

    roles: NDArray[np.uint8]
    """Whose words each is, see `Role` [n, t]."""

    documents: NDArray[np.int64]
    """The number of each one's document in its split, or `NO_DOCUMENT` [n, t]."""

    labels: tuple[str, ...] = ()
    """Of the document of each sequence [n], where sequences are documents."""

    label_sets: tuple[tuple[str, ...], ...] = ()
    """The same where documents have any number of labels."""


def describe_document(length: int) -> Provenance:
    """Return where the tokens of a single text come from [1, length]."""
    return Provenance(
        roles=np.full((1, length), Role.TEXT, dtype=np.uint8),
        documents=np.zeros((1, length), dtype=np.int64),
    )


class Split:
    """The tokens of one split."""

    def __init__(
        self, folder: Path, manifest: SplitManifest, token_type: str, end_of_text: int
    ) -> None:
        """Map the split's files in `folder`; documents end with the token `end_of_text`."""
        self._end_of_text = end_of_text
        self.num_tokens = manifest.num_tokens
        self.num_documents = manifest.num_documents
        self.num_bytes = manifest.num_bytes
        """Of the text in UTF-8."""
        self._shards = [
            np.memmap(folder / shard.tokens, dtype=token_type, mode="r")
            for shard in manifest.shards
        ]
        self._roles = [
            np.memmap(folder / shard.roles, dtype=np.uint8, mode="r")
            for shard in manifest.shards
            if shard.roles is not None
        ]
        self._facts = [folder / shard.facts for shard in manifest.shards if shard.facts is not None]
        self.has_roles = len(self._roles) == len(self._shards)
        """Whether it is known whose words each token is; else all are text."""

        self._starts = np.cumsum([0, *(len(shard) for shard in self._shards)])
        offsets = [
            np.fromfile(folder / shard.offsets, dtype=OFFSET_TYPE) for shard in manifest.shards
        ]
        self._offsets = np.concatenate([*offsets, [np.uint64(self.num_tokens)]]).astype(np.int64)
        assert self._starts[-1] == self.num_tokens

    def num_sequences(self, sequence_length: int) -> int:
        """Return how many sequences of `sequence_length` inputs, each with its target, there are.

        Sequence i takes tokens [i·length, (i+1)·length], so that every token but the first is
        a target once and a remainder at the end is left out.
        """
        return max(0, self.num_tokens - 1) // sequence_length

    def read_sequences(
        self, indices: Sequence[int] | NDArray[np.int64], sequence_length: int
    ) -> NDArray[np.int64]:
        """Return the sequences at `indices` [n, sequence_length + 1]."""
        sequences = np.empty((len(indices), sequence_length + 1), dtype=np.int64)
        for row, index in zip(sequences, indices, strict=True):
            self._read(self._shards, int(index) * sequence_length, row)
        return sequences

    def read_provenance(
        self, indices: Sequence[int] | NDArray[np.int64], sequence_length: int
    ) -> Provenance:
        """Return where the tokens of the sequences at `indices` come from [n, length + 1]."""
        roles = np.full((len(indices), sequence_length + 1), Role.TEXT, dtype=np.uint8)
        if self.has_roles:
            for row, index in zip(roles, indices, strict=True):
                self._read(self._roles, int(index) * sequence_length, row)
        starts = np.asarray(indices, dtype=np.int64)[:, None] * sequence_length
        places = starts + np.arange(sequence_length + 1)
        documents = np.searchsorted(self._offsets, places, side="right") - 1
        documents[roles == Role.PADDING] = NO_DOCUMENT
        return Provenance(roles=roles, documents=documents)

    def read_tokens(self, start: int, count: int) -> NDArray[np.int64]:
        """Return `count` tokens of the split from the position `start` on, which there are."""
        tokens = np.empty(count, dtype=np.int64)
        self._read(self._shards, start, tokens)
        return tokens

    @property
    def document_lengths(self) -> NDArray[np.int64]:
        """Tokens of each document, with its end of text and padding [documents]."""
        return np.diff(self._offsets)

    def read_document(self, index: int) -> NDArray[np.int64]:
        """Return the tokens of a document, without its end of text and padding."""
        start, end = self._offsets[index], self._offsets[index + 1]
        document = np.empty(end - start, dtype=np.int64)
        self._read(self._shards, int(start), document)
        return document[: np.flatnonzero(document != self._end_of_text).max(initial=-1) + 1]

    def read_documents(
        self, indices: Sequence[int] | NDArray[np.int64], max_tokens: int | None = None
    ) -> tuple[NDArray[np.int64], Provenance]:
        """Return documents as rows, and where their tokens come from.

        Each ends with end of text, and is cut to `max_tokens` if given; rows are as long as the
        longest of them, and filled with end of text.
        """
        kept = None if max_tokens is None else max_tokens - 1
        texts = [self.read_document(int(index))[:kept] for index in indices]
        lengths = np.array([len(text) + 1 for text in texts])
        rows = np.full((len(texts), lengths.max()), self._end_of_text, dtype=np.int64)
        for row, text in zip(rows, texts, strict=True):
            row[: len(text)] = text
        is_filled = np.arange(rows.shape[1]) >= lengths[:, None]
        documents = np.where(is_filled, NO_DOCUMENT, np.asarray(indices)[:, None])
        roles = np.where(is_filled, Role.PADDING, Role.TEXT).astype(np.uint8)
        if self.has_roles:
            for row, index, text in zip(roles, indices, texts, strict=True):
                row[: len(text)] = self.read_roles(int(index))[:kept]
        return rows, Provenance(
            roles=roles,
            documents=documents,
            labels=tuple(self.labels[int(index)] for index in indices),
            label_sets=tuple(self.label_sets[int(index)] for index in indices),
        )

    @cached_property
    def labels(self) -> list[str]:
        """The label of each document; empty ones where none are stored."""
        if not self._facts:
            return [""] * self.num_documents
        return [facts["label"] for facts in self._iterate_facts()]

    @cached_property
    def label_sets(self) -> list[tuple[str, ...]]:
        """The labels of each document, where it may have several; none where none are stored."""
        if not self._facts:
            return [()] * self.num_documents
        return [tuple(facts.get("labels", ())) for facts in self._iterate_facts()]

    def read_facts(self) -> list[Facts]:
        """Return what is stored of each document; nothing where nothing is."""
        if not self._facts:
            return [NO_FACTS] * self.num_documents
        return [Facts.load(facts) for facts in self._iterate_facts()]

    def read_roles(self, index: int) -> NDArray[np.uint8]:
        """Return whose words the tokens of a document are, those of `read_document`."""
        roles = np.full(len(self.read_document(index)), Role.TEXT, dtype=np.uint8)
        if self.has_roles:
            self._read(self._roles, int(self._offsets[index]), roles)
        return roles

    def count_tokens(
        self, vocabulary_size: int, roles: Collection[Role] | None = None
    ) -> NDArray[np.int64]:
        """Return how often each token occurs [vocabulary_size]; None: whatever its role."""
        if roles is None or not self.has_roles:
            return count_tokens(self._shards, vocabulary_size)
        return count_tokens(self._shards, vocabulary_size, self._roles, roles)

    def _iterate_facts(self) -> Iterator[dict[str, Any]]:
        for path in self._facts:
            # Not by splitlines: a label may hold line ends that JSON does not escape.
            with path.open(encoding="utf-8", newline="\n") as lines:
                yield from map(json.loads, lines)

    def _read(self, shards: Sequence[NDArray[Any]], start: int, target: NDArray[Any]) -> None:
        """Fill `target` with what `shards` have from `start` on, which may be of several."""
        number = int(np.searchsorted(self._starts, start, side="right")) - 1
        filled = 0
        while filled < len(target):
            place = start + filled - int(self._starts[number])
            part = shards[number][place : place + len(target) - filled]
            target[filled : filled + len(part)] = part
            filled += len(part)
            number += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Prepared data, in a local folder."""

    fingerprint: str
    vocabulary_size: int
    end_of_text: int
    """Id of the token that ends every document."""

    special: SpecialTokens
    """Tokens that objectives need, of those that the tokenizer has."""

    labels: Sequence[str]
    """Of the documents that are trained on, sorted; none where they have none."""

    train: Split
    validation: Split
    test: Split | None
    """Where the recipe has a test part."""

    unigram_counts: NDArray[np.int64]
    """How often each token occurs in the training split [vocabulary_size]."""

    folder: Path

    @property
    def tokenizer_file(self) -> Path:
        """The tokenizer itself, as the `tokenizers` library reads it."""
        return self.folder / TOKENIZER / "tokenizer.json"

    def save_tokenizer(self, folder: Path) -> None:
        """Copy the tokenizer's files into `folder`, which exists."""
        copytree(self.folder / TOKENIZER, folder, dirs_exist_ok=True)


def open_run_dataset(store: Store, config: RunConfig) -> Dataset:
    """Open the data that `prepare` chose for the run that `store` is rooted at.

    Raises:
        StoreError: where data is missing or damaged.
    """
    record = RunDataset.model_validate_json(store.read_bytes(DATASET))
    return open_dataset(open_store(record.uri, config.storage), find_cache_directory())


def find_dataset(fingerprint: str, cache_directory: Path) -> Dataset | None:
    """Open a dataset that this host has whole, without asking the store; None if it has not."""
    folder = cache_directory / fingerprint
    try:
        manifest = DatasetManifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return None
    return _map_dataset(folder, manifest) if is_whole(folder, manifest.objects) else None


def find_cache_directory() -> Path:
    """Return the folder in which this user's processes on this host share datasets."""
    return find_host_folder("datasets")


def open_dataset(store: Store, cache_directory: Path) -> Dataset:
    """Open the dataset that `store` is rooted at, downloaded to the cache where it is not yet.

    Raises:
        StoreError: where an object is missing or is not what the manifest says.
    """
    data = store.read_bytes(MANIFEST)
    try:
        manifest = DatasetManifest.model_validate_json(data)
    except ValidationError as error:
        raise _explain_damage(f"{store.uri}/{MANIFEST}") from error
    folder = cache_directory / manifest.fingerprint
    with lock_folder(folder):
        damaged = download_objects(store, manifest.objects, folder)
        if damaged is not None:
            raise _explain_damage(f"{store.uri}/{damaged.key}")
        unverified = folder / f"{MANIFEST}.unverified"
        unverified.write_bytes(data)
        unverified.replace(folder / MANIFEST)
    return _map_dataset(folder, manifest)


def _map_dataset(folder: Path, manifest: DatasetManifest) -> Dataset:
    def map_split(split: SplitManifest) -> Split:
        return Split(folder, split, manifest.token_type, manifest.end_of_text)

    return Dataset(
        fingerprint=manifest.fingerprint,
        vocabulary_size=manifest.vocabulary_size,
        end_of_text=manifest.end_of_text,
        special=manifest.special,
        labels=tuple(manifest.labels),
        train=map_split(manifest.train),
        validation=map_split(manifest.validation),
        test=None if manifest.test is None else map_split(manifest.test),
        unigram_counts=np.fromfile(folder / TRAIN_COUNTS, dtype=COUNT_TYPE),
        folder=folder,
    )


def _explain_damage(uri: str) -> StoreError:
    return StoreError(
        f"{uri} is not what the dataset's manifest says",
        reason="DatasetDamaged",
        next_step="delete the dataset's folder in the store, and start a new job",
    )
