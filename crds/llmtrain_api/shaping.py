"""The last steps of `spec.data`: what is added to training documents, and how they are stored.

Below: `base`. Above: `data`, which embeds these models. All of them are absent by default.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from llmtrain_api.base import Model

TextTemplate = Annotated[str, StringConstraints(pattern=r"\{text\}", max_length=1024)]


class Reduce(Model):
    """What is left out of too much text. The quality heuristics are in clean.quality."""

    tokens: int | None = Field(default=None, ge=1000, le=1_000_000_000_000_000)
    """Budget of the training split: it has at most so many tokens, in documents chosen by their
    hash, repeated ones counted each time."""

    typical_share: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Quality: so large a share of the documents is kept, those whose text compresses most like
    that of others of their length. Repeated and random text goes first."""

    min_novelty: float | None = Field(default=None, gt=0.0, le=1.0)
    """Diversity: documents of whose sequences of five words a smaller share is new are left out;
    0.1 to 0.3 is usual."""


class Augment(Model):
    """Changed copies of training documents. What is held out and conversations stay as they are.

    Rates are shares of words. Each copy follows from the seed and the document's id, or its text
    where it has none.
    """

    copies: int = Field(default=1, ge=1, le=20)
    """Changed copies of each training document, beside itself."""

    swap: float = Field(default=0.0, ge=0.0, le=0.5)
    """Words that change places with the next one."""

    delete: float = Field(default=0.0, ge=0.0, le=0.5)
    """Words that are left out."""

    synonym: float = Field(default=0.0, ge=0.0, le=0.5)
    """Words that a synonym replaces, where the bundled English lexicon has one."""

    typo: float = Field(default=0.0, ge=0.0, le=0.5)
    """Words of four letters or more in which a letter is dropped, doubled or moved."""

    case: float = Field(default=0.0, ge=0.0, le=0.5)
    """Words written in capitals, in small letters, or with a capital."""

    templates: list[TextTemplate] = Field(default=[], max_length=64)
    """Frames for the text of a copy, one drawn for each, as "Review: {text}"."""

    fill_in_middle: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of training documents in which the middle is moved to the end, behind special tokens,
    so that the model learns to fill gaps (Bavarian et al. 2022)."""

    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Seed of all that is drawn."""


class Overlong(StrEnum):
    """What becomes of documents longer than a row."""

    DIVIDE = "divide"
    TRUNCATE = "truncate"


class Pack(Model):
    """Documents packed into rows, so that none is cut where it need not be. Of training only.

    A document goes into the row with the least room that suffices (best fit); what is left of a
    row is padding. Where documents begin and what is padding is stored beside the tokens.
    """

    sequence_length: int = Field(ge=8, le=1_048_576)
    """Tokens of a row; the value of training.sequenceLength."""

    overlong: Overlong = Overlong.DIVIDE
    """Longer documents. divide: go on in another row; truncate: lose their end."""
