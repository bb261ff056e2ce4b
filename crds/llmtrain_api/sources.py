"""`spec.data.sources`: where documents are read from, and what becomes of what cannot be read.

Below: `base`. Above: `data`, which embeds these models.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from llmtrain_api.base import Model, cel

S3_URI_PATTERN = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^\s]*)?$"
"""A bucket by the S3 naming rules, then any key, prefix or glob."""

S3Uri = Annotated[str, StringConstraints(pattern=S3_URI_PATTERN, max_length=1024)]

SEVERAL_OBJECTS = r"[*?\[]|/$"
"""Found in a URI that is a glob or a prefix."""

SHA256_RULE = "sha256 is the digest of one object; uri must not be a glob or a prefix"


SPLIT_RULE = "split is for format: huggingface"
DIRECTORY_RULE = "format: huggingface needs a uri that ends in /"
TEMPLATE_RULE = "template is for records that are not read as turns by fields"
ONE_CONVERSATION_RULE = "give one of messages, prompt with response, and source with target"
PROMPT_RULE = "prompt and response go together"
TRANSLATION_RULE = "source and target go together"
LABELS_RULE = "give either label, one class, or labels, any number of them"

FieldName = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class SourceFormat(StrEnum):
    """How the objects of a source are read."""

    TEXT = "text"
    JSONL = "jsonl"
    JSON = "json"
    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"
    ARROW = "arrow"
    HTML = "html"
    HUGGINGFACE = "huggingface"


class InvalidPolicy(StrEnum):
    """What becomes of a record that cannot be read."""

    FAIL = "fail"
    SKIP = "skip"
    QUARANTINE = "quarantine"


class Fields(Model):
    """What fields of a record mean beside its text, or in place of it."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "(has(self.messages) ? 1 : 0) + (has(self.prompt) ? 1 : 0) + "
                    "(has(self.source) ? 1 : 0) <= 1",
                    ONE_CONVERSATION_RULE,
                ),
                cel("has(self.prompt) == has(self.response)", PROMPT_RULE, field="response"),
                cel("has(self.source) == has(self.target)", TRANSLATION_RULE, field="target"),
                cel("!has(self.label) || !has(self.labels)", LABELS_RULE, field="labels"),
            ]
        }
    )

    messages: FieldName | None = None
    """A conversation: a list of objects with a role (system, user, assistant, tool) and a
    content, at least one of the assistant."""

    prompt: FieldName | None = None
    """With response: what a user asks."""

    response: FieldName | None = None
    """What the assistant is to answer."""

    source: FieldName | None = None
    """With target: a text to translate, which becomes the turn of a user."""

    target: FieldName | None = None
    """Its translation, the turn of the assistant."""

    label: FieldName | None = None
    """The document's class; kept beside its tokens."""

    labels: FieldName | None = None
    """In place of label: a list of the document's classes, any number of them; kept beside its
    tokens. An empty list: it has none of them."""

    language: FieldName | None = None
    """Its language, as en; kept beside its tokens."""

    id: FieldName | None = None
    """Its name; kept beside its tokens."""

    @property
    def is_conversation(self) -> bool:
        """Whether records are read as turns."""
        return not (self.messages is None and self.prompt is None and self.source is None)

    @model_validator(mode="after")
    def check_conversation(self) -> Self:
        """Hold the CEL rules of this model in Python too."""
        kinds = (self.messages, self.prompt, self.source)
        if sum(kind is not None for kind in kinds) > 1:
            raise ValueError(ONE_CONVERSATION_RULE)
        if (self.prompt is None) != (self.response is None):
            raise ValueError(PROMPT_RULE)
        if (self.source is None) != (self.target is None):
            raise ValueError(TRANSLATION_RULE)
        if self.label is not None and self.labels is not None:
            raise ValueError(LABELS_RULE)
        return self


class Source(Model):
    """One place that documents are read from."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    f"!has(self.sha256) || !self.uri.matches('{SEVERAL_OBJECTS}')".replace(
                        "\\", "\\\\"
                    ),
                    SHA256_RULE,
                    field="sha256",
                ),
                cel(
                    "!has(self.template) || !has(self.fields) || "
                    "!(has(self.fields.messages) || has(self.fields.prompt) || "
                    "has(self.fields.source))",
                    TEMPLATE_RULE,
                    field="template",
                ),
                cel(
                    "!has(self.split) || (has(self.format) && self.format == 'huggingface')",
                    SPLIT_RULE,
                    field="split",
                ),
                cel(
                    "!has(self.format) || self.format != 'huggingface' || self.uri.endsWith('/')",
                    DIRECTORY_RULE,
                    field="uri",
                ),
            ]
        }
    )

    uri: S3Uri
    """Object, prefix (ends in /) or glob, as s3://bucket/path/*.jsonl. Objects that end in .gz,
    .zst or .zip are unpacked."""

    format: SourceFormat | None = None
    """text, html: one file is one document; jsonl: one line is one; json: one element of an
    array is one; csv, tsv: one row below a header is one; parquet, arrow: one row is one;
    huggingface: uri is the directory of a dataset, as save_to_disk makes it or the Hub has it in
    Parquet. Absent: by the ending of the name (.jsonl, .ndjson, .json, .csv, .tsv, .parquet,
    .arrow, .html, .htm), text otherwise."""

    split: str | None = Field(default=None, min_length=1, max_length=256)
    """For huggingface: the split that is read, as train. Absent: the only one."""

    text_field: str = Field(default="text", min_length=1, max_length=256)
    """For formats with fields: the one that holds the document's text."""

    template: str | None = Field(default=None, min_length=3, max_length=4096)
    """For formats with fields: a document made of several, in place of textField, as
    "Question: {question} Answer: {answer}". {{ and }} stand for braces."""

    fields: Fields | None = None
    """For formats with fields: what others than the text mean: the turns of a conversation, a
    label, a language, an id."""

    split_field: str | None = Field(default=None, min_length=1, max_length=256)
    """For formats with fields: the one with the group, label or time of a document, for
    split.method group, stratified and time. A time is a number of seconds, or as 2026-11-24."""

    weight: float = Field(default=1.0, gt=0.0, le=100.0)
    """How often each document occurs in the training split: 3 repeats every one, 0.5 takes a
    half of them, chosen by the hash of their text. What is held out is never repeated."""

    max_characters: int | None = Field(default=None, ge=1, le=1_000_000_000_000_000)
    """At most so much text of the source is used, in documents chosen by their hash after all
    that is left out otherwise. Absent: all of it."""

    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", max_length=64)
    """Digest of the object at uri: any other content is refused."""

    @model_validator(mode="after")
    def check_sha256(self) -> Self:
        """Hold the CEL rule of this model in Python too."""
        if self.sha256 is not None and re.search(SEVERAL_OBJECTS, self.uri):
            raise ValueError(SHA256_RULE)
        return self

    @model_validator(mode="after")
    def check_template(self) -> Self:
        """Hold the other CEL rule of this model in Python too."""
        if self.template is not None and self.is_conversation:
            raise ValueError(TEMPLATE_RULE)
        return self

    @model_validator(mode="after")
    def check_directory(self) -> Self:
        """Hold the CEL rules about Hugging Face datasets in Python too."""
        if self.format is SourceFormat.HUGGINGFACE:
            if not self.uri.endswith("/"):
                raise ValueError(DIRECTORY_RULE)
        elif self.split is not None:
            raise ValueError(SPLIT_RULE)
        return self

    @property
    def is_pair(self) -> bool:
        """Whether records are a text and its answer."""
        fields = self.fields
        return fields is not None and (fields.source is not None or fields.prompt is not None)

    @property
    def is_conversation(self) -> bool:
        """Whether its records are read as turns."""
        return self.fields is not None and self.fields.is_conversation


class Invalid(Model):
    """What becomes of records that cannot be read: broken lines, missing fields, empty text."""

    policy: InvalidPolicy = InvalidPolicy.FAIL
    """fail: the first one ends the job, named by file and line; skip: it is left out, counted,
    and listed in the dataset's rejected.jsonl by place and reason; quarantine: the same in
    quarantine.jsonl, with what was found there, personal data treated as data.privacy.action
    says."""

    max_rate: float = Field(default=0.01, gt=0.0, le=1.0)
    """For skip and quarantine: the job fails where a larger share of the records cannot be read."""
