"""Why a classifier errs whose documents have any number of labels each.

Below: the analyses of documents with one label, which are made of each label by itself: has it, or
has it not. Above: `set_reporting` writes the findings, `report` shows the explanation.

Each label against all others is how Thyagarajan et al. 2023 (Identifying Incorrect Annotations in
Multi-Label Classification Data, arXiv:2211.13895) find wrong label sets, too. A document is doubted
where one of its decisions is; slices count a document as wrong unless all of its labels are right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmtrain_api.findings import Drop, Finding, FindingKind, Part
from llmtrain_trainer.dataset.facts import Facts
from llmtrain_trainer.evaluation.classification.label_sets import LabelSets
from llmtrain_trainer.evaluation.classification.predictions import Predictions
from llmtrain_trainer.evaluation.classification.word_model import divide_into_folds
from llmtrain_trainer.evaluation.error_analysis.compiling import (
    MAX_SHARE,
    WHY_HELD_OUT,
    WHY_TRAINING,
    compile_slices,
)
from llmtrain_trainer.evaluation.error_analysis.examples import (
    WrongExample,
    choose_examples,
    shorten,
)
from llmtrain_trainer.evaluation.error_analysis.label_errors import find_label_errors
from llmtrain_trainer.evaluation.error_analysis.slices import (
    Slice,
    SliceKind,
    divide_documents,
    judge_slices,
)

NUM_FOLDS = 5
SHOWN_DOUBTS, SHOWN_SLICES = 10, 12

SHOWN_LABELS = 8
EXAMPLES_OF_A_LABEL = 2
"""Wrong decisions that are shown of a label, of those labels that have the most."""

SetModel = Callable[[Sequence[str], NDArray[np.bool_], Sequence[str]], NDArray[np.float64] | None]
"""Learns texts and their labels, and says of others how probable each label is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSets:
    """Documents of one part of the data, what they say, and what is said of them."""

    sets: LabelSets
    texts: Sequence[str]
    """Personal data replaced."""

    facts: Sequence[Facts]
    lengths: NDArray[np.int64]
    """Tokens [documents]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """A document that probably has a label which it is not given, or the other way round."""

    part: str
    document: str
    """Its digest."""

    text: str
    label: str
    is_given: bool
    """Whether the data give it the label."""

    confidence: float
    """Probability that the data are wrong, by the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetExplanation:
    """Why the classifier errs."""

    findings: Sequence[Finding]
    slices: Sequence[Slice]
    doubts: Sequence[Doubt]
    """The surest ones of each part."""

    examples: Sequence[tuple[str, Sequence[WrongExample]]]
    """Of the labels with the most errors: those of which the model is surest."""

    def dump(self) -> dict[str, Any]:
        """Return JSON-ready camelCase data; the findings have a file of their own."""
        return {
            "slices": [asdict(item) for item in self.slices],
            "doubts": [asdict(item) for item in self.doubts],
            "examples": {label: [asdict(one) for one in wrong] for label, wrong in self.examples},
        }


def explain_set_errors(
    held_out: LabelledSets,
    learned: LabelledSets | None,
    *,
    part: Part,
    num_sources: int,
) -> SetExplanation:
    """Return why a classifier errs on held-out documents.

    Args:
        held_out: the documents, and what the classifier says of them.
        learned: training documents, and what is said by a model that has not seen them; None: there
            is none.
        part: that the held-out documents are.
        num_sources: of the recipe.
    """
    found = {part: (held_out, find_doubts(held_out, part))}
    if learned is not None:
        found = {Part.TRAIN: (learned, find_doubts(learned, Part.TRAIN)), **found}
    slices = compare_set_slices(held_out)
    return SetExplanation(
        findings=[
            *(
                finding
                for where, (documents, doubts) in found.items()
                for finding in compile_doubts(where, len(documents.sets), doubts)
            ),
            *compile_slices(part, slices, num_sources),
        ],
        slices=slices[:SHOWN_SLICES],
        doubts=[doubt for _, doubts in found.values() for doubt in doubts[:SHOWN_DOUBTS]],
        examples=choose_set_examples(held_out),
    )


def find_doubts(documents: LabelledSets, part: Part) -> list[Doubt]:
    """Return the decisions that are probably wrong in the data, the surest first.

    Of each label they are found as of documents with one label of two; see `label_errors`.
    """
    doubts = [
        Doubt(
            part=part.value,
            document=documents.facts[error.document].digest,
            text=shorten(documents.texts[error.document]),
            label=label,
            is_given=bool(error.given),
            confidence=error.confidence,
        )
        for number, label in enumerate(documents.sets.labels)
        if has_both(documents.sets.true[:, number])
        for error in find_label_errors(view_label(documents, number))
    ]
    return sorted(doubts, key=lambda doubt: -doubt.confidence)


def compare_set_slices(documents: LabelledSets) -> list[Slice]:
    """Return the slices of documents, the clearest first; those of a label are all that have it."""
    sets = documents.sets
    kinds = list(divide_documents(documents.facts, documents.lengths))
    kinds += [
        (SliceKind.LABEL, label, sets.true[:, number]) for number, label in enumerate(sets.labels)
    ]
    return judge_slices((sets.true != sets.predicted).any(axis=1), kinds)


def choose_set_examples(documents: LabelledSets) -> list[tuple[str, list[WrongExample]]]:
    """Return the wrong decisions of which the model is surest, by label; most errors first."""
    sets = documents.sets
    errors = (sets.true != sets.predicted).sum(axis=0)
    shown = [n for n in np.argsort(-errors, kind="stable").tolist() if errors[n]][:SHOWN_LABELS]
    return [
        (
            sets.labels[number],
            choose_examples(view_label(documents, number), documents.texts)[0][
                :EXAMPLES_OF_A_LABEL
            ],
        )
        for number in shown
    ]


def compile_doubts(part: Part, total: int, doubts: Sequence[Doubt]) -> Iterator[Finding]:
    """Yield what to do about documents that probably have other labels."""
    if not doubts:
        return
    surest = {doubt.document: doubt.confidence for doubt in reversed(doubts)}
    is_training = part is Part.TRAIN
    are_too_many = len(surest) > MAX_SHARE * total
    summary = f"{len(surest):,} of {total:,} {part.value} documents probably have other labels."
    if are_too_many:
        summary += " So many cannot be told from a model that does not know the labels."
    yield Finding(
        kind=FindingKind.MISLABELLED,
        part=part,
        summary=summary,
        why=WHY_TRAINING if is_training else WHY_HELD_OUT,
        advice=(
            "Read some of them; nothing is to be changed by machine."
            if are_too_many or not is_training
            else "Read some of them before they are left out."
        ),
        drop=[
            Drop(document=document, confidence=confidence)
            for document, confidence in sorted(surest.items(), key=lambda item: -item[1])
            if is_training and not are_too_many and document
        ],
    )


def ask_out_of_fold(
    labels: Sequence[str],
    true: NDArray[np.bool_],
    texts: Sequence[str],
    facts: Sequence[Facts],
    lengths: NDArray[np.int64],
    model: SetModel,
    *,
    seed: int,
) -> LabelledSets | None:
    """Return what a model says of documents, having learned those of the other folds.

    Copies are in one fold. None where it cannot learn in some fold.

    Args:
        labels: in the order of the model's answers.
        true: whether a document has a label [documents, labels].
        texts: of the documents.
        facts: what is stored of them.
        lengths: tokens of each.
        model: learns and answers.
        seed: of the division into folds.
    """
    _, kinds = np.unique(true, axis=0, return_inverse=True)
    folds = divide_into_folds(facts, kinds.reshape(-1), num_folds=NUM_FOLDS, seed=seed)
    probabilities = np.zeros(true.shape)
    for fold in range(NUM_FOLDS):
        inside, outside = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        if not len(inside) or not len(outside):
            return None
        said = model(
            [texts[i] for i in outside.tolist()], true[outside], [texts[i] for i in inside.tolist()]
        )
        if said is None:
            return None
        probabilities[inside] = said
    sets = LabelSets(labels=tuple(labels), true=true, probabilities=probabilities)
    return LabelledSets(sets=sets, texts=texts, facts=facts, lengths=lengths)


def view_label(documents: LabelledSets, number: int) -> Predictions:
    """Return the decisions on one label as documents of two: without it, with it."""
    label, sure = documents.sets.labels[number], documents.sets.probabilities[:, number]
    return Predictions(
        labels=(f"without {label}", f"with {label}"),
        true=documents.sets.true[:, number].astype(np.int64),
        probabilities=np.stack([1.0 - sure, sure], axis=1),
        facts=documents.facts,
        lengths=documents.lengths,
    )


def has_both(marks: NDArray[np.bool_]) -> bool:
    """Tell whether some documents have a label and others have not."""
    return bool(marks.any() and not marks.all())
