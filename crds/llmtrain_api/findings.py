"""`findings.json`: what an evaluation found out, and what to do about it as data.

Below: `base`. Above: the trainer's `evaluation` writes it beside the report of a run; `llmtrain
next` makes a manifest of it.

A finding is a sentence for people and, where something can be done by machine, actions:

| action    | part of the next manifest that it becomes                                           |
|-----------|-------------------------------------------------------------------------------------|
| `drop`    | a line `document` in a list of `spec.data.privacy.erase`                            |
| `relabel` | a line {"document", "from", "to"} in a list of `spec.data.relabel`                  |
| `weigh`   | `spec.data.sources[source].weight`, multiplied by `factor`                          |

Actions about held-out text (`part` other than train) are for people to look at: what a model is
measured by must not be changed by what the model holds for right.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from llmtrain_api.base import Model

FINDINGS = "evaluation/findings.json"
"""Key below a run."""

DocumentName = Annotated[
    str, StringConstraints(pattern=r"^(?:[0-9a-f]{32}|[0-9a-f]{64}|id:[^\r\n]+)$")
]
"""A document as a list of spec.data.privacy.erase names it: the SHA-256 of its text as it was
read, or the first 32 digits of that, or id: and its id."""


class Part(StrEnum):
    """A part of the split."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class FindingKind(StrEnum):
    """What a finding is about."""

    MISLABELLED = "mislabelled"
    """Documents whose label is probably wrong."""

    WEAK_SLICE = "weak-slice"
    """A slice of the held-out documents on which the model is significantly worse."""

    MISMATCH = "mismatch"
    """Held-out text can be told from training text."""

    GAP = "gap"
    """What the errors of training, validation and test say together (Ng)."""


class Drop(Model):
    """A document to leave out."""

    document: DocumentName
    confidence: float = Field(ge=0.0, le=1.0)
    """Probability that it should be, as estimated."""


class Relabel(Model):
    """A document to give another label."""

    document: DocumentName
    from_label: str
    """As it is in the data."""

    to_label: str
    """What it probably is."""

    confidence: float = Field(ge=0.0, le=1.0)
    """Probability of to_label, as estimated."""


class RelabelLine(Model):
    """A line of a list in spec.data.relabel: what a `Relabel` becomes."""

    document: DocumentName
    from_label: str = Field(alias="from", min_length=1, max_length=1024)
    """The label that is replaced; where a document has another one by now, it keeps that."""

    to_label: str = Field(alias="to", min_length=1, max_length=1024)


class Weigh(Model):
    """A source to be used more often, or less."""

    source: int = Field(ge=0)
    """Index in spec.data.sources."""

    factor: float = Field(gt=0.0, le=100.0)
    """What its weight is to be multiplied by; above 1 means more of it."""


class Finding(Model):
    """One thing that was found out, and what can be done about it."""

    kind: FindingKind

    part: Part
    """Part of the data that it is about."""

    summary: str
    """What was found, as a sentence with its numbers."""

    why: str
    """How it was found, and what that cannot tell."""

    advice: str = ""
    """What a person can do, where there is more than the actions."""

    drop: list[Drop] = []
    """Documents to leave out, those that are surest first."""

    relabel: list[Relabel] = []
    """Documents to give another label, those that are surest first; none is in `drop`, too."""

    weigh: list[Weigh] = []
    """Sources to be used more often, or less."""


class Findings(Model):
    """All that the evaluation of a run found out."""

    format_version: Literal[1] = 1

    run: str
    """URI of the run, as its status.provenance.runUri says."""

    dataset: str
    """Fingerprint of the data that the documents are of."""

    findings: list[Finding] = []
    """What needs doing first comes first."""


class Change(Model):
    """A field that the next manifest has another value for, and why."""

    path: str
    """Below spec, as data.sources[0].weight."""

    value: Any
    """As camelCase data."""

    reason: str
    """For the comment above it."""
