"""The steps that treat each document for itself, in order, over batches of documents.

Below: `normalize`, `selection`, `quality`, `privacy`; `minhash`, whose keys want the same text.
Above: `corpus`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from llmtrain_api.data import DataSpec
from llmtrain_api.recipe import PrivacyAction
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.minhash import Scheme, compute_keys
from llmtrain_trainer.preparation.normalize import normalize_text
from llmtrain_trainer.preparation.privacy import protect_text
from llmtrain_trainer.preparation.quality import judge_text
from llmtrain_trainer.preparation.selection import select_text
from llmtrain_trainer.preparation.step import Step
from llmtrain_trainer.preparation.tally import Tally
from llmtrain_trainer.preparation.words import Hashes

BATCH_CHARACTERS = 256 * 1024
"""Text that is refined at once: little, so that no process waits long for the last of a unit."""


@dataclass(frozen=True, slots=True)
class Refined:
    """What the steps made of a batch."""

    documents: list[Document]

    tallies: list[Tally]
    """One for each step."""

    keys: Hashes | None
    """Of the documents that are left, for finding near-duplicates [documents, bands]."""


def choose_steps(data: DataSpec) -> list[Step]:
    """Return the steps that `data` asks for."""
    looks_for_personal_data = data.privacy.action is not PrivacyAction.OFF
    privacy = [Step("privacy", partial(protect_text, data.privacy))]
    return [
        Step("normalize", partial(normalize_text, data.clean)),
        Step("select", partial(select_text, data.clean)),
        *(Step(rules.value, partial(judge_text, rules)) for rules in data.clean.quality),
        *(privacy if looks_for_personal_data else []),
    ]


def refine_documents(
    documents: Iterable[Document], steps: list[Step], scheme: Scheme | None = None
) -> Refined:
    """Apply the steps to a batch, and compute the keys that `scheme` wants of what is left."""
    tallies = [Tally(step.name) for step in steps]
    refined = []
    for document in documents:
        text = refine_text(document, steps, tallies)
        if text is not None:
            refined.append(document if text == document.text else replace(document, text=text))
    texts = [document.text for document in refined]
    return Refined(refined, tallies, None if scheme is None else compute_keys(texts, scheme))


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
