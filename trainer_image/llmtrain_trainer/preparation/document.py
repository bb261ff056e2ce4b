"""What passes between the steps of preparation: a document, or the refusal of one.

Below: nothing. Above: every step.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmtrain_trainer.dataset.facts import NO_FACTS, Facts


@dataclass(frozen=True, slots=True)
class Document:
    """One text of a source."""

    text: str

    place: str
    """Where it was read, as s3://bucket/key:line."""

    source: int
    """Index of its source in the manifest."""

    key: str = ""
    """Its group, label or time, where documents are split by one."""

    facts: Facts = NO_FACTS
    """What is kept of it beside its tokens."""

    digest: str = ""
    """Of its text as it was read, by `digest_text`; it stays when the text is changed."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record that is no document."""

    place: str
    """Where it was read, as s3://bucket/key:line."""

    why: str
    """What is wrong with it; never its content."""

    next_step: str
    """What its owner can do about it."""

    reason: str = "DocumentInvalid"
    """Of the failure, where nothing may be left out."""

    record: bytes = b""
    """What was found at the place; a value of JSON or a row of a columnar table as JSON."""
