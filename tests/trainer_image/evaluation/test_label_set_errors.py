"""Why a classifier of several labels errs: flipped labels are found, clean ones are left alone."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray

from llmtrain_api.findings import FindingKind, Part
from llmtrain_trainer.dataset.facts import Facts
from llmtrain_trainer.evaluation.classification.label_sets import LabelSets
from llmtrain_trainer.evaluation.classification.set_reporting import predict_sets_by_words
from llmtrain_trainer.evaluation.error_analysis.label_set_errors import (
    LabelledSets,
    ask_out_of_fold,
    explain_set_errors,
)

LABELS = ("fruit", "tool")
WORDS = {"fruit": ("apple", "pear", "plum"), "tool": ("saw", "axe", "drill")}
NUM_DOCUMENTS, NUM_FLIPPED = 400, 20


def make_documents() -> tuple[list[str], NDArray[np.bool_]]:
    """Return texts whose words say which of two labels they have."""
    draw = Random(0)
    texts, marks = [], []
    for number in range(NUM_DOCUMENTS):
        has = [draw.random() < 0.5 for _ in LABELS]
        words = [draw.choice(WORDS[label]) for label, it in zip(LABELS, has, strict=True) if it]
        texts.append(" ".join(["some", *words, f"n{number}"]))
        marks.append(has)
    return texts, np.array(marks)


def describe(true: NDArray[np.bool_]) -> list[Facts]:
    return [
        Facts(digest=f"{n:064x}", source=n % 2, language="en", label="") for n in range(len(true))
    ]


@pytest.mark.parametrize("num_flipped", [0, NUM_FLIPPED])
def test_flipped_labels_are_doubted_and_no_others(num_flipped: int) -> None:
    texts, true = make_documents()
    flipped = Random(1).sample(range(NUM_DOCUMENTS), num_flipped)
    given = true.copy()
    for place, document in enumerate(flipped):
        given[document, place % 2] ^= True
    facts, lengths = describe(true), np.arange(NUM_DOCUMENTS) % 7 + 1
    learned = ask_out_of_fold(LABELS, given, texts, facts, lengths, predict_sets_by_words, seed=0)
    assert learned is not None
    held_out = LabelledSets(
        sets=LabelSets(labels=LABELS, true=true, probabilities=np.where(true, 0.9, 0.1)),
        texts=texts,
        facts=facts,
        lengths=lengths,
    )
    told = explain_set_errors(held_out, learned, part=Part.TEST, num_sources=2)
    dropped = {d.document for f in told.findings if f.part is Part.TRAIN for d in f.drop}
    wrong = {facts[document].digest for document in flipped}
    assert dropped <= wrong
    assert len(dropped) >= num_flipped * 0.9
    assert [f.part for f in told.findings] == [Part.TRAIN] * bool(num_flipped)
    assert len(told.doubts) == min(10, num_flipped)
    assert told.examples == []


def test_the_slice_and_the_label_that_are_worse_are_named() -> None:
    texts, true = make_documents()
    facts = describe(true)
    sure = np.where(true, 0.9, 0.1)
    of_source = np.array([item.source for item in facts]) == 1
    sure[of_source & true[:, 1], 1] = 0.3  # tools of the second source are missed
    held_out = LabelledSets(
        sets=LabelSets(labels=LABELS, true=true, probabilities=sure),
        texts=texts,
        facts=facts,
        lengths=np.full(NUM_DOCUMENTS, 5),
    )
    told = explain_set_errors(held_out, None, part=Part.VALIDATION, num_sources=2)
    weak = [f for f in told.findings if f.kind is FindingKind.WEAK_SLICE]
    assert {"source 1", "label tool"} <= {f.summary.split(":")[0][22:] for f in weak}
    assert [w.source for f in weak for w in f.weigh] == [1]
    ((label, examples),) = told.examples
    assert (label, len(examples)) == ("tool", 2)
    assert (examples[0].label, examples[0].predicted) == ("with tool", "without tool")
