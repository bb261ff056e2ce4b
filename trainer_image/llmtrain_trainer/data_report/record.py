"""What the report of a dataset says, as it lies in the store.

Below: the contract's base model. Above: `publishing` writes it, `page` shows it, `llmtrain data`
reads it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llmtrain_api.base import Model
from llmtrain_trainer.dataset.leakage_record import LeakageRecord
from llmtrain_trainer.dataset.step_record import StepRecord

REPORT = "report.json"
REPORT_PAGE = "report.html"
"""Keys, relative to the dataset. They are no objects of its manifest: nothing trains on them."""


class Lengths(Model):
    """How long documents are."""

    smallest: int
    median: float
    ninety_fifth: float
    """At most a twentieth of the documents is longer."""

    largest: int

    histogram: dict[int, int]
    """Documents by the power of two that their length is at least."""


class PartRecord(Model):
    """One part of the split."""

    name: Literal["train", "validation", "test"]
    documents: int = Field(ge=0)
    """As they are stored: repeated ones each time."""

    tokens: int = Field(ge=0)
    bytes: int = Field(ge=0)
    """Of UTF-8."""

    token_lengths: Lengths
    labels: dict[str, int] = Field(default_factory=dict)
    """Documents by label, before any is repeated; empty: the data has no labels."""


class SourceRecord(Model):
    """What came of one source."""

    uri: str
    documents: int = Field(ge=0)
    """After all steps, before any is repeated."""

    characters: int = Field(ge=0)
    weight: float


class GroupWord(Model):
    """A word that stands near the terms of a group more often than near those of the others."""

    word: str
    count: int

    score: float
    """z-score of the log-odds ratio."""


class GroupRecord(Model):
    """How one group of people is mentioned in the sample."""

    dimension: str
    """What tells it from others, as gender."""

    group: str
    documents: int = Field(ge=0)
    """Of the sample, with one of its terms or more."""

    mentions: int = Field(ge=0)
    words: list[GroupWord] = Field(default_factory=list)


class TokenCount(Model):
    """A token of the vocabulary."""

    token: str
    count: int


class VocabularyRecord(Model):
    """What the tokenizer learned, measured on the training part."""

    size: int
    used: int
    """Tokens that occur."""

    tokens_per_word: float
    bytes_per_token: float
    unknown_rate: float
    most_frequent: list[TokenCount]
    covered_by: dict[int, float]
    """Share of all tokens that the so many most frequent ones make."""


class Point(Model):
    """A document of the sample on the two maps."""

    kind: str
    """Its label, source or language."""

    pca: tuple[float, float]
    tsne: tuple[float, float]


class DataReport(Model):
    """What a dataset is like."""

    format_version: Literal[1] = 1
    fingerprint: str

    steps: list[StepRecord]
    """What each step of the recipe did."""

    sources: list[SourceRecord]
    parts: list[PartRecord]
    duplicates: dict[str, int]
    """Documents or paragraphs that were left out, by step."""

    leakage: LeakageRecord | None = None
    """Near copies between training and what is held out; absent: they were left out, or not looked
    for."""

    personal_data: dict[str, int] | None = None
    """What was found by its kind; absent: it was not looked for."""

    sample_documents: int
    """Documents that all below is about, chosen by their hash."""

    languages: dict[str, int]
    groups: list[GroupRecord]
    vocabulary: VocabularyRecord

    points_show: str = ""
    """What tells the kinds of points: label, source or language."""

    points: list[Point] = Field(default_factory=list)
    examples: list[str] = Field(default_factory=list)
    """Beginnings of documents, personal data replaced."""
