"""`spec.data`: where the text comes from and how it becomes tokens.

Below: `base`. Above: `job`, which embeds `DataSpec`, and `run`, which hands it to `prepare`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from llmtrain_api.base import Model, cel

S3_URI_PATTERN = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^\s]*)?$"
"""A bucket by the S3 naming rules, then any key, prefix or glob."""

S3Uri = Annotated[str, StringConstraints(pattern=S3_URI_PATTERN, max_length=1024)]


class SourceFormat(StrEnum):
    """How the objects of a source are read."""

    TEXT = "text"
    JSONL = "jsonl"


class TokenizerKind(StrEnum):
    """How text becomes tokens."""

    BYTE = "byte"
    CHARACTER = "character"
    BPE = "bpe"
    PRETRAINED = "pretrained"


class SplitMethod(StrEnum):
    """How held-out text is chosen."""

    DOCUMENT = "document"
    TAIL = "tail"


class Source(Model):
    """One place that documents are read from."""

    uri: S3Uri
    """Object, prefix (ends in /) or glob, as s3://bucket/path/*.jsonl."""

    format: SourceFormat | None = None
    """text: one file is one document; jsonl: one line is one document. Absent: jsonl for names
    that end in .jsonl or .ndjson, text otherwise."""

    text_field: str = Field(default="text", min_length=1, max_length=256)
    """For jsonl: the field that holds the document's text."""


class Tokenizer(Model):
    """The tokenizer: trained on the data, or taken from a model directory."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "(self.kind == 'pretrained') == has(self.uri)",
                    "uri names the model directory of kind: pretrained, and only of that kind",
                    field="uri",
                )
            ]
        }
    )

    kind: TokenizerKind = TokenizerKind.BPE
    """byte: 256 tokens and an end of text; character: one for each character that occurs; bpe:
    byte-level BPE trained on the training split; pretrained: from the directory at uri."""

    vocabulary_size: int = Field(default=8192, ge=300, le=1_000_000)
    """For bpe: tokens in the trained vocabulary, special tokens included."""

    uri: S3Uri | None = None
    """For pretrained: a directory with tokenizer.json, as Hugging Face writes it."""

    @model_validator(mode="after")
    def check_uri(self) -> Self:
        """Hold the CEL rule of this model in Python too."""
        if (self.kind is TokenizerKind.PRETRAINED) != (self.uri is not None):
            raise ValueError(
                "uri names the model directory of kind: pretrained, and only of that kind"
            )
        return self


class Split(Model):
    """How much text is held out for evaluation, and which."""

    method: SplitMethod = SplitMethod.DOCUMENT
    """document: whole documents, chosen by the hash of their text, so that a document never
    changes sides; tail: the last part of each document, for sources of a few long texts."""

    validation_fraction: float = Field(default=0.05, gt=0.0, le=0.5)
    """Share of the documents (or of each document's characters) that is held out."""


class DataSpec(Model):
    """What the model is trained on."""

    sources: list[Source] = Field(min_length=1, max_length=64)
    """Where documents come from; read in this order."""

    tokenizer: Tokenizer = Tokenizer()
    """How text becomes tokens."""

    split: Split = Split()
    """What is held out for evaluation."""
