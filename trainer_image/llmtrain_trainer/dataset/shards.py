"""Prepared data as it lies in the store: shards of tokens, and the manifest that makes a dataset.

Below: numpy, the contract's base model. Above: `prepare` writes shards here, `dataset` reads them.

    datasets/<fingerprint>/train-00000.tokens    uint16 or uint32, little endian
                           train-00000.offsets   uint64: where its documents begin
                           train-00000.roles     uint8: whose words each token is (see `marks`)
                           train-00000.facts     JSON lines: what is known of each (see `facts`)
                           train.counts          int64: how often each token occurs in training
                           validation-00000.…    the same of the held-out split
                           test-00000.…          the same of the test split, where there is one
                           documents.index       which documents it holds (see `document_index`)
                           tokenizer/            a Hugging Face tokenizer
                           rejected.jsonl        records left out, by place and reason; or
                           quarantine.jsonl      with what was found there (see `quarantine`)
                           report.json, .html    what it is like (see `data_report`); no part of it
                           manifest.json         last
                           work/                 of tasks at work, until the manifest is there

The tokens of a split are one stream over its shards; every document ends with the end-of-text
token, and offsets count from the start of the stream.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from llmtrain_api.base import Model
from llmtrain_api.data import DataSpec
from llmtrain_trainer.dataset.facts import NO_FACTS, Facts
from llmtrain_trainer.dataset.input_pins import InputPins
from llmtrain_trainer.dataset.leakage_record import LeakageRecord
from llmtrain_trainer.dataset.step_record import StepRecord
from llmtrain_trainer.store.described import ManifestObject
from llmtrain_trainer.tokenizer.arrays import RoleArray, TokenArray
from llmtrain_trainer.tokenizer.marks import Role
from llmtrain_trainer.tokenizer.special_tokens import SpecialTokens

DATASET = "dataset.json"
"""Key, below a run, of the record that says which dataset the run trains on."""

MANIFEST = "manifest.json"
REJECTED = "rejected.jsonl"
QUARANTINE = "quarantine.jsonl"
TRAIN_COUNTS = "train.counts"
TOKENIZER = "tokenizer/"
WORK = "work/"
"""Prefix of what tasks leave for each other; no part of the dataset."""

SHARD_TOKENS = 64 * 1024 * 1024
"""A shard is closed when it holds this many tokens: 128 MiB where a token takes two bytes."""

COUNTED_TOKENS = SHARD_TOKENS // 16
"""Tokens that are counted at a time."""

OFFSET_TYPE = np.dtype("<u8")
COUNT_TYPE = np.dtype("<i8")


class RunDataset(Model):
    """The record that ties a run to its data."""

    fingerprint: str
    """Digest of all that the data follows from."""

    uri: str
    """Where it lies."""


class SourceObject(Model):
    """An object that documents were read from."""

    uri: str
    size: int = Field(ge=0)
    """Bytes."""

    etag: str
    """As the store gave it."""

    version: str | None = None
    """By which it was read, where the bucket keeps versions."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of the content that was read."""


class Shard(Model):
    """One file of tokens and one of document offsets."""

    tokens: str
    """Key of the tokens, relative to the dataset."""

    offsets: str
    """Key of the offsets of the documents that begin in this shard."""

    roles: str | None = None
    """Key of the role of each token, where not all are plain text."""

    facts: str | None = None
    """Key of what records say of the documents that begin in this shard, one line for each."""

    num_tokens: int = Field(ge=1)


class SplitManifest(Model):
    """What one split consists of."""

    num_documents: int = Field(ge=1)
    num_tokens: int = Field(ge=1)
    """Ends of documents included."""

    num_bytes: int = Field(ge=1)
    """Of the split's text in UTF-8."""

    num_padding: int = Field(default=0, ge=0)
    """Of the tokens: those that fill rows and belong to no document."""

    num_truncated: int = Field(default=0, ge=0)
    """Documents that lost their end, being longer than a row."""

    num_divided: int = Field(default=0, ge=0)
    """Documents that go on in another row; each part counts as a document."""

    shards: list[Shard] = Field(min_length=1)


class TokenizerRecord(Model):
    """How well the tokenizer suits the training split."""

    tokens_per_word: float = Field(ge=0.0)
    """Fertility: tokens for each run of characters between spaces."""

    bytes_per_token: float = Field(ge=0.0)
    """Of UTF-8."""

    unknown_rate: float = Field(ge=0.0, le=1.0)
    """Share of tokens that stand for what the tokenizer cannot write."""

    tokens_used: int = Field(ge=0)
    """Tokens of the vocabulary that occur, end of text included."""


class DatasetManifest(Model):
    """The record that makes a set of objects a dataset."""

    format_version: Literal[1] = 1

    fingerprint: str
    recipe: DataSpec
    sources: list[SourceObject]

    pins: InputPins | None = None
    """Every object that the recipe names, and which of its versions was read: what `data.pins` of
    another job goes by. Absent in datasets of older versions."""

    steps: list[StepRecord] = Field(default_factory=list)
    """What each step of the recipe did, in their order."""

    num_documents: int = Field(ge=1)
    """Documents read, before any was divided over the splits."""

    tokenizer: TokenizerRecord | None = None
    """How well the tokenizer suits; absent in datasets of older versions."""

    vocabulary_size: int = Field(ge=2)
    end_of_text: int = Field(ge=0)
    """Id of the token that ends every document."""

    special: SpecialTokens = SpecialTokens()
    """Tokens that objectives need, of those that the tokenizer has."""

    token_type: Literal["<u2", "<u4"]
    """How a token is stored, as numpy writes it."""

    train: SplitManifest
    validation: SplitManifest
    test: SplitManifest | None = None
    """Where the recipe has a test part."""

    labels: list[str] = Field(default_factory=list)
    """Of the documents that are trained on, sorted; empty: they have none."""

    leakage: LeakageRecord | None = None
    """Of near copies between training and what is held out; absent: they were left out, or not
    looked for."""

    objects: list[ManifestObject]
    """Every object but this one, keys relative to the dataset."""


class ShardWriter:
    """Writes the documents of one split to files of a folder."""

    def __init__(
        self,
        folder: Path,
        split: str,
        *,
        shard_tokens: int = SHARD_TOKENS,
        with_roles: bool = False,
        with_facts: bool = False,
    ) -> None:
        """Write to `folder`; the files are called after `split`.

        Args:
            folder: of the dataset.
            split: its name.
            shard_tokens: after how many a shard is closed.
            with_roles: whether the role of each token is kept.
            with_facts: whether facts of each document are kept.
        """
        self._folder = folder
        self.with_roles = with_roles
        self._with_facts = with_facts
        self._roles: BinaryIO | None = None
        self._facts: list[Facts] = []
        self._split = split
        self._shard_tokens = shard_tokens
        self._file: BinaryIO | None = None
        self._offsets: list[int] = []
        self._shards: list[Shard] = []
        self.num_tokens = 0
        """Written so far, padding included."""

        self.num_padding = 0
        self._shard_start = 0
        self._num_documents = 0
        self._num_bytes = 0

    def append(
        self,
        document: TokenArray,
        *,
        num_bytes: int,
        roles: RoleArray | None = None,
        facts: Facts = NO_FACTS,
    ) -> None:
        """Append a document's tokens, which end with end of text.

        Args:
            document: its tokens.
            num_bytes: of its text in UTF-8.
            roles: of its tokens, where the writer keeps them.
            facts: of it, where the writer keeps them.
        """
        file = self._file_or_open()
        self._offsets.append(self.num_tokens)
        file.write(document.data)
        if self._roles is not None:
            assert roles is not None
            assert len(roles) == len(document)
            self._roles.write(roles.data)
        if self._with_facts:
            self._facts.append(facts)
        self.num_tokens += len(document)
        self._num_documents += 1
        self._num_bytes += num_bytes
        if self.num_tokens - self._shard_start >= self._shard_tokens:
            self._close_shard()

    def append_padding(self, tokens: TokenArray, roles: RoleArray) -> None:
        """Append tokens that belong to no document, behind one that does."""
        self._file_or_open().write(tokens.data)
        if self._roles is not None:
            self._roles.write(roles.data)
        self.num_tokens += len(tokens)
        self.num_padding += len(tokens)
        if self.num_tokens - self._shard_start >= self._shard_tokens:
            self._close_shard()

    def _file_or_open(self) -> BinaryIO:
        """Return the file of the shard at hand, begun where there is none."""
        if self._file is None:
            name = f"{self._split}-{len(self._shards):05d}"
            self._file = (self._folder / f"{name}.tokens").open("wb")
            if self.with_roles:
                self._roles = (self._folder / f"{name}.roles").open("wb")
            self._shard_start = self.num_tokens
        return self._file

    def finish(self) -> SplitManifest | None:
        """Close the last shard; return what was written, or None where nothing was."""
        self._close_shard()
        if self._num_documents == 0:
            return None
        return SplitManifest(
            num_documents=self._num_documents,
            num_tokens=self.num_tokens,
            num_bytes=self._num_bytes,
            num_padding=self.num_padding,
            shards=self._shards,
        )

    def _close_shard(self) -> None:
        if self._file is None:
            return
        self._file.close()
        self._file = None
        name = f"{self._split}-{len(self._shards):05d}"
        offsets = np.array(self._offsets, dtype=OFFSET_TYPE)
        (self._folder / f"{name}.offsets").write_bytes(offsets.data)
        self._offsets.clear()
        if self._roles is not None:
            self._roles.close()
            self._roles = None
        if self._with_facts:
            lines = "".join(_write_facts(facts) for facts in self._facts)
            (self._folder / f"{name}.facts").write_text(lines, encoding="utf-8")
            self._facts.clear()
        self._shards.append(
            Shard(
                tokens=f"{name}.tokens",
                offsets=f"{name}.offsets",
                roles=f"{name}.roles" if self.with_roles else None,
                facts=f"{name}.facts" if self._with_facts else None,
                num_tokens=self.num_tokens - self._shard_start,
            )
        )


def _write_facts(facts: Facts) -> str:
    known = asdict(facts)
    if not facts.labels:  # most datasets have none of these
        del known["labels"]
    return json.dumps(known, ensure_ascii=False) + "\n"


def count_tokens(
    streams: Sequence[TokenArray],
    size: int,
    roles: Sequence[RoleArray] = (),
    only: Collection[Role] = (),
) -> NDArray[np.int64]:
    """Return how often each token occurs in the streams [`size`].

    Args:
        streams: the tokens.
        size: of the vocabulary.
        roles: whose words each token is, for each stream; none: all are counted.
        only: the roles that count.
    """
    counts = np.zeros(size, dtype=np.int64)
    for stream, whose in zip_longest(streams, roles):
        for start in range(0, len(stream), COUNTED_TOKENS):
            part = stream[start : start + COUNTED_TOKENS]
            if whose is not None:
                part = part[np.isin(whose[start : start + COUNTED_TOKENS], list(only))]
            counts += np.bincount(part, minlength=size)
    return counts
