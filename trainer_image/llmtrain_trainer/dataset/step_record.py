"""What a step of preparation did, as the manifest of a dataset keeps it.

Below: the contract's base model. Above: `preparation.tally` counts, `shards` has the manifest.

An example names where a document was read and the measure that decided, never its text: records
of a run are read by more people than its data.
"""

from __future__ import annotations

from pydantic import Field

from llmtrain_api.base import Model


class RuleExample(Model):
    """One document that a rule applied to."""

    place: str
    """Where it was read."""

    measure: str = ""
    """What was found, as "mean word length 14.2"."""


class RuleCount(Model):
    """What one rule did."""

    count: int = Field(ge=0)
    """Documents that it removed, or things that it changed."""

    examples: list[RuleExample] = Field(default_factory=list)


class StepRecord(Model):
    """What one step did."""

    step: str

    documents_in: int = Field(ge=0)
    documents_out: int = Field(ge=0)

    documents_changed: int = Field(default=0, ge=0)
    """Of those that came out."""

    characters_in: int = Field(ge=0)
    characters_out: int = Field(ge=0)

    rules: dict[str, RuleCount] = Field(default_factory=dict)
    """By the name of the rule."""
