"""`spec.data`: where the text comes from and how it becomes tokens.

Below: `base`; `sources` for where documents come from, `recipe` for what is done to them.
Above: `job`, which embeds `DataSpec`, and `run`, which hands it to `prepare`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import ConfigDict, Field, model_validator

from llmtrain_api.base import Model, cel
from llmtrain_api.recipe import Clean, Deduplicate, Privacy
from llmtrain_api.shaping import Augment, Pack, Reduce
from llmtrain_api.sources import Invalid, S3Uri, Source

WORDPIECE_VOCABULARY = 600
"""Every byte twice, as the first piece of a word and as another one, and some to learn."""

WORDPIECE_RULE = f"vocabularySize must be at least {WORDPIECE_VOCABULARY} for kind: wordpiece"

SPLIT_FIELD_RULE = "every source needs a splitField for split.method group, stratified and time"


RELABEL_RULE = "relabel needs fields.label in at least one of data.sources"

FRACTIONS_RULE = "validationFraction and testFraction together must be less than 1"


CONVERSATION_RULE = (
    "clean.quality, deduplicate.paragraphs and split.method: tail cut texts, and so are not for "
    "sources whose fields make conversations"
)


class TokenizerKind(StrEnum):
    """How text becomes tokens."""

    BYTE = "byte"
    CHARACTER = "character"
    BPE = "bpe"
    WORDPIECE = "wordpiece"
    UNIGRAM = "unigram"
    PRETRAINED = "pretrained"


TRAINED_KINDS = frozenset({TokenizerKind.BPE, TokenizerKind.WORDPIECE, TokenizerKind.UNIGRAM})
"""Those that learn a vocabulary of a given size."""


class SplitMethod(StrEnum):
    """How held-out text is chosen."""

    DOCUMENT = "document"
    TAIL = "tail"
    GROUP = "group"
    STRATIFIED = "stratified"
    TIME = "time"


METHODS_BY_FIELD = frozenset({SplitMethod.GROUP, SplitMethod.STRATIFIED, SplitMethod.TIME})
"""Methods that divide documents by a field of theirs."""


class Tokenizer(Model):
    """The tokenizer: trained on the data, or taken from a model directory."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "(self.kind == 'pretrained') == has(self.uri)",
                    "uri names the model directory of kind: pretrained, and only of that kind",
                    field="uri",
                ),
                cel(
                    f"self.kind != 'wordpiece' || self.vocabularySize >= {WORDPIECE_VOCABULARY}",
                    WORDPIECE_RULE,
                    field="vocabularySize",
                ),
            ]
        }
    )

    kind: TokenizerKind = TokenizerKind.BPE
    """byte: 256 tokens and an end of text; character: one for each character that occurs; bpe,
    wordpiece, unigram: trained on the training split, over bytes, so that there is nothing they
    cannot write; pretrained: from the directory at uri."""

    vocabulary_size: int = Field(default=8192, ge=300, le=1_000_000)
    """For those that are trained: tokens in the trained vocabulary, special tokens included."""

    sample_characters: int = Field(default=100_000_000, ge=1000, le=100_000_000_000)
    """For those that are trained: learns from about so much text, documents chosen by their
    hash; from all where there is less."""

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

    @model_validator(mode="after")
    def check_vocabulary_size(self) -> Self:
        """Hold the other CEL rule of this model in Python too."""
        is_small = self.vocabulary_size < WORDPIECE_VOCABULARY
        if self.kind is TokenizerKind.WORDPIECE and is_small:
            raise ValueError(WORDPIECE_RULE)
        return self


class Split(Model):
    """How much text is held out for evaluation, and which."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "!has(self.testFraction) || self.validationFraction + self.testFraction < 1.0",
                    FRACTIONS_RULE,
                    field="testFraction",
                )
            ]
        }
    )

    method: SplitMethod = SplitMethod.DOCUMENT
    """document: whole documents, chosen by the hash of their text, so that a document never
    changes sides; tail: the last part of each document, for sources of a few long texts. By the
    splitField of each source: group: whole groups, chosen by their hash; stratified: of each label
    the same share; time: the newest documents."""

    validation_fraction: float = Field(default=0.05, gt=0.0, le=0.5)
    """Share of the documents (or of each document's characters) that is held out."""

    test_fraction: float | None = Field(default=None, gt=0.0, le=0.5)
    """Share that is held out beside it and looked at only by an evaluation of split: test; with
    tail the end of each document, with time the newest. Absent: there is no such part. Documents
    of the other two parts do not change sides by it."""

    check_leakage: bool = True
    """Counts held-out documents of which a near copy is trained on, in the manifest and the report,
    for a twentieth of the time or less. Nothing is left out. Not with tail, and not where
    deduplicate.near leaves them out."""

    @model_validator(mode="after")
    def check_fractions(self) -> Self:
        """Hold the CEL rule of this model in Python too."""
        if self.validation_fraction + (self.test_fraction or 0.0) >= 1.0:
            raise ValueError(FRACTIONS_RULE)
        return self


class DataSpec(Model):
    """What the model is trained on."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "!(self.split.method in ['group', 'stratified', 'time'])"
                    " || self.sources.all(source, has(source.splitField))",
                    SPLIT_FIELD_RULE,
                    field="split.method",
                ),
                cel(
                    "!self.sources.exists(source, has(source.fields) && "
                    "(has(source.fields.messages) || has(source.fields.prompt) || "
                    "has(source.fields.source))) || (size(self.clean.quality) == 0 && "
                    "!self.deduplicate.paragraphs && self.split.method != 'tail')",
                    CONVERSATION_RULE,
                ),
                cel(
                    "size(self.relabel) == 0 || self.sources.exists(source, has(source.fields) && "
                    "has(source.fields.label))",
                    RELABEL_RULE,
                    field="relabel",
                ),
            ]
        }
    )

    sources: list[Source] = Field(min_length=1, max_length=64)
    """Where documents come from; read in this order."""

    pins: S3Uri | None = None
    """The manifest.json of a dataset that is made again: its objects are read by the versions that
    were read then, whatever lies in their place now. Absent: what the sources name when the job
    starts."""

    invalid: Invalid = Invalid()
    """What becomes of records that cannot be read."""

    clean: Clean = Clean()
    """How text is normalised, and which documents are left out."""

    privacy: Privacy = Privacy()
    """What becomes of personal data and secrets."""

    relabel: list[Source] = Field(default=[], max_length=16)
    """Lists of documents whose label is wrong: JSON lines with document (the SHA-256 of its text,
    as it was read, or id: and its id), from (the label that it has) and to (the one it gets).
    Documents stay in the part of the split that they were in. `llmtrain next` writes such lists."""

    deduplicate: Deduplicate = Deduplicate()
    """What is left out because the same was there before."""

    tokenizer: Tokenizer = Tokenizer()
    """How text becomes tokens."""

    split: Split = Split()
    """What is held out for evaluation."""

    tasks: int = Field(default=1, ge=1, le=100)
    """Pods that prepare the data together, each with as many processes as it has cores. The dataset
    does not depend on it. Divided among them are source files; those of JSON lines that are not
    packed are divided further, by ranges of their bytes."""

    reduce: Reduce | None = None
    """What is left out of too much text. Absent: nothing."""

    augment: Augment | None = None
    """Changed copies of training documents. Absent: none."""

    pack: Pack | None = None
    """Training documents packed into rows. Absent: they are one stream of tokens."""

    shard_mebibytes: int | None = Field(default=None, ge=1, le=4096)
    """MiB of a file of tokens. Absent: 128 for vocabularies of at most 65,536 tokens, else 256."""

    @model_validator(mode="after")
    def check_split_fields(self) -> Self:
        """Hold the CEL rule of this model in Python too."""
        if self.split.method in METHODS_BY_FIELD and any(
            source.split_field is None for source in self.sources
        ):
            raise ValueError(SPLIT_FIELD_RULE)
        return self

    @model_validator(mode="after")
    def check_conversations(self) -> Self:
        """Hold the other CEL rule of this model in Python too."""
        cuts = bool(self.clean.quality) or self.deduplicate.paragraphs
        cuts |= self.split.method is SplitMethod.TAIL
        if cuts and self.has_conversations:
            raise ValueError(CONVERSATION_RULE)
        return self

    @model_validator(mode="after")
    def check_relabel(self) -> Self:
        """Hold the CEL rule about `relabel` in Python too."""
        has_labels = any(s.fields is not None and s.fields.label for s in self.sources)
        if self.relabel and not has_labels:
            raise ValueError(RELABEL_RULE)
        return self

    @property
    def has_label_sets(self) -> bool:
        """Whether documents have any number of labels each, and not one."""
        return any(s.fields is not None and s.fields.labels for s in self.sources)

    @property
    def has_conversations(self) -> bool:
        """Whether some source's records are read as turns."""
        return any(source.is_conversation for source in self.sources)
