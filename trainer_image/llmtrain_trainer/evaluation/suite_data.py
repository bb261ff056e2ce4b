"""The examples of a suite, from JSON lines in the store.

Below: `store`, the contract's `Suite`. Above: `inputs` reads them before anything is trained,
`suites` asks them.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from llmtrain_api.base import Model
from llmtrain_api.run import StorageConfig
from llmtrain_api.suites import Suite, SuiteKind
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.store import ObjectMissingError, open_store, split_uri

MAX_SUITE_BYTES = 256 * 1024 * 1024
"""Of an object; a suite is read whole."""

SLOT = "{}"
"""Where a term stands in the prompt of a counterfactual."""

LEAST_SECRETS = 1000
"""Of the form of a canary: of fewer a model guesses one by chance."""

Item = TypeVar("Item")


class QuestionRecord(Model):
    """A line of a suite of kind generation."""

    id: str | int | None = None
    prompt: str = Field(min_length=1)
    reference: str | None = None
    references: list[str] = Field(default=[])
    source: str | None = None

    @model_validator(mode="after")
    def check_references(self) -> Self:
        """Refuse a question that no answer can be compared with."""
        if (self.reference is None) == (not self.references):
            raise ValueError("give either reference, or references with at least one text")
        return self


class ChoiceRecord(Model):
    """A line of a suite of kind multiple-choice."""

    id: str | int | None = None
    prompt: str = Field(min_length=1)
    choices: list[str] = Field(min_length=2, max_length=1000)
    answer: int = Field(ge=0)

    @model_validator(mode="after")
    def check_answer(self) -> Self:
        """Refuse an answer that is none of the choices, and choices without text."""
        if self.answer >= len(self.choices):
            raise ValueError(f"answer is {self.answer}, and choices are counted from 0")
        if not all(self.choices):
            raise ValueError("a choice is empty")
        return self


class CounterfactualRecord(Model):
    """A line of a suite of kind counterfactual."""

    id: str | int | None = None
    prompt: str = Field(min_length=1)
    terms: list[str] = Field(min_length=2, max_length=100)
    continuation: str = Field(min_length=1)

    @model_validator(mode="after")
    def check_slot(self) -> Self:
        """Refuse a prompt without a place for the terms, and terms without text."""
        if self.prompt.count(SLOT) == 0:
            raise ValueError(f"prompt has no {SLOT}, where each of terms is put")
        if not all(self.terms) or len(set(self.terms)) < len(self.terms):
            raise ValueError("terms must be different texts")
        return self


class CanaryRecord(Model):
    """A line of a suite of kind canary."""

    id: str | int | None = None
    prompt: str = Field(min_length=1)
    secret: str = Field(min_length=1)

    @model_validator(mode="after")
    def check_secret(self) -> Self:
        """Refuse a secret that is easily guessed."""
        if count_secrets(self.secret) < LEAST_SECRETS:
            raise ValueError(
                f"secret has too few digits and letters: there are less than {LEAST_SECRETS} others"
            )
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A prompt and what it may be answered by."""

    place: str
    """Object and line, as s3://bucket/qa.jsonl:3."""

    prompt: str
    references: tuple[str, ...]
    source: str | None = None
    """What the answer is to be true to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A prompt and possible continuations, of which one is right."""

    place: str
    prompt: str
    choices: tuple[str, ...]
    answer: int
    """Index of the right one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterfactual:
    """A prompt with a place for a term, the terms, and what follows."""

    place: str
    prompt: str
    terms: tuple[str, ...]
    continuation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A secret, and what stands before it in the training text."""

    place: str
    prompt: str
    secret: str


def read_questions(suite: Suite, index: int, storage: StorageConfig) -> list[Question]:
    """Return the examples of a suite of kind generation that are asked.

    Args:
        suite: what to read.
        index: its place in spec.evaluation.suites, for messages.
        storage: how the store is reached.

    Raises:
        DataError: the object is not there or empty, or a line is not as it should be.
    """
    questions = [
        Question(
            place=place,
            prompt=record.prompt,
            references=(record.reference,)
            if record.reference is not None
            else tuple(record.references),
            source=record.source,
        )
        for place, record in _read_records(QuestionRecord, suite, index, storage)
    ]
    return choose_evenly(questions, suite.max_examples)


def read_choices(suite: Suite, index: int, storage: StorageConfig) -> list[Choice]:
    """Return the examples of a suite of kind multiple-choice that are asked.

    Raises:
        DataError: see `read_questions`.
    """
    choices = [
        Choice(
            place=place,
            prompt=record.prompt,
            choices=tuple(record.choices),
            answer=record.answer,
        )
        for place, record in _read_records(ChoiceRecord, suite, index, storage)
    ]
    return choose_evenly(choices, suite.max_examples)


def read_counterfactuals(suite: Suite, index: int, storage: StorageConfig) -> list[Counterfactual]:
    """Return the examples of a suite of kind counterfactual that are asked.

    Raises:
        DataError: see `read_questions`.
    """
    examples = [
        Counterfactual(
            place=place,
            prompt=record.prompt,
            terms=tuple(record.terms),
            continuation=record.continuation,
        )
        for place, record in _read_records(CounterfactualRecord, suite, index, storage)
    ]
    return choose_evenly(examples, suite.max_examples)


def read_canaries(suite: Suite, index: int, storage: StorageConfig) -> list[Canary]:
    """Return the examples of a suite of kind canary that are asked.

    Raises:
        DataError: see `read_questions`.
    """
    canaries = [
        Canary(place=place, prompt=record.prompt, secret=record.secret)
        for place, record in _read_records(CanaryRecord, suite, index, storage)
    ]
    return choose_evenly(canaries, suite.max_examples)


def check_suite(suite: Suite, index: int, storage: StorageConfig) -> None:
    """Refuse a suite that could not be asked.

    Raises:
        DataError: see `read_questions`.
    """
    READERS[suite.kind](suite, index, storage)


def choose_evenly(items: Sequence[Item], max_items: int) -> list[Item]:
    """Return at most `max_items` of the items, evenly over all of them."""
    count = min(len(items), max_items)
    return [items[number * len(items) // count] for number in range(count)]


READERS: dict[SuiteKind, Callable[[Suite, int, StorageConfig], Sequence[object]]] = {
    SuiteKind.GENERATION: read_questions,
    SuiteKind.MULTIPLE_CHOICE: read_choices,
    SuiteKind.COUNTERFACTUAL: read_counterfactuals,
    SuiteKind.CANARY: read_canaries,
}


def count_secrets(secret: str) -> int:
    """Return how many secrets there are of the form of one: digits for digits, letters alike."""
    digits = sum(character in string.digits for character in secret)
    letters = sum(character in string.ascii_letters for character in secret)
    return int(len(string.digits) ** digits * len(string.ascii_lowercase) ** letters)


Record = TypeVar("Record", QuestionRecord, ChoiceRecord, CounterfactualRecord, CanaryRecord)


def _read_records(
    kind: type[Record], suite: Suite, index: int, storage: StorageConfig
) -> list[tuple[str, Record]]:
    field = f"spec.evaluation.suites[{index}] ({suite.name})"
    bucket, key = split_uri(suite.uri)
    store = open_store(f"s3://{bucket}", storage)
    found = store.find_object(key)
    if found is not None and found.size > MAX_SUITE_BYTES:
        raise _refuse(f"{field}: {suite.uri} is larger than {MAX_SUITE_BYTES} bytes", "divide it")
    try:
        data = store.read_bytes(key)
    except ObjectMissingError:
        raise _refuse(
            f"{field}: there is no object {suite.uri}", "upload the suite there, or correct its uri"
        ) from None
    records = []
    for number, line in enumerate(data.splitlines(), start=1):
        if line.strip():
            place = f"{suite.uri}:{number}"
            records.append((place, _parse_line(kind, line, f"{field}: {place}")))
    if not records:
        raise _refuse(f"{field}: {suite.uri} holds no example", "give at least one line")
    return records


def _parse_line(kind: type[Record], line: bytes, place: str) -> Record:
    known = ", ".join(kind.model_fields)
    try:
        return kind.model_validate(json.loads(line.decode()))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise _refuse(f"{place}: not valid JSON: {error}", "correct the line") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        why = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            why = "unknown field"
        message = f"{place}: {where}: {why}" if where else f"{place}: {why}"
        raise _refuse(message, f"correct the line; known fields: {known}") from None


def _refuse(message: str, next_step: str) -> DataError:
    return DataError(message, reason="SuiteInvalid", next_step=next_step)
