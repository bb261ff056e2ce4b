"""The steps that treat each document for itself, in order, over batches of documents.

Below: `normalize`, `selection`, `quality`. Above: `prepare`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from llmtrain_api.data import DataSpec
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.normalize import normalize_text
from llmtrain_trainer.preparation.quality import judge_text
from llmtrain_trainer.preparation.selection import select_text
from llmtrain_trainer.preparation.step import Step
from llmtrain_trainer.preparation.tally import Tally

BATCH_CHARACTERS = 1024 * 1024
"""Text that is refined at once."""


@dataclass(frozen=True, slots=True)
class Refined:
    """What the steps made of a batch."""

    documents: list[Document]

    tallies: list[Tally]
    """One for each step."""


def choose_steps(data: DataSpec) -> list[Step]:
    """Return the steps that `data` asks for."""
    return [
        Step("normalize", partial(normalize_text, data.clean)),
        Step("select", partial(select_text, data.clean)),
        *(Step(rules.value, partial(judge_text, rules)) for rules in data.clean.quality),
    ]


def refine_documents(documents: Iterable[Document], steps: list[Step]) -> Refined:
    """Apply the steps to a batch."""
    tallies = [Tally(step.name) for step in steps]
    refined = []
    for document in documents:
        text = refine_text(document, steps, tallies)
        if text is not None:
            refined.append(document if text == document.text else replace(document, text=text))
    return Refined(refined, tallies)


def refine_text(document: Document, steps: list[Step], tallies: list[Tally]) -> str | None:
    """Return what the steps make of a document, or None; count it in the steps' tallies."""
    text: str = document.text
    for step, tally in zip(steps, tallies, strict=True):
        after = step.apply(text, partial(tally.count_rule, document.place))
        tally.count_text(text, after)
        if after is None:
            return None
        text = after
    return text


def divide_documents(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Gather documents until a batch holds about `BATCH_CHARACTERS`."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
