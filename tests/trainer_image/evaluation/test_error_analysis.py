"""Errors that were made on purpose are explained, and where there are none nothing is said."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from llmtrain_api.findings import FindingKind, Part
from llmtrain_trainer.dataset.facts import Facts
from llmtrain_trainer.evaluation.classification.labelled_texts import LabelledTexts
from llmtrain_trainer.evaluation.classification.predictions import Predictions
from llmtrain_trainer.evaluation.classification.word_model import (
    divide_into_folds,
    predict_out_of_fold,
)
from llmtrain_trainer.evaluation.error_analysis.examples import group_errors
from llmtrain_trainer.evaluation.error_analysis.explaining import explain_errors
from llmtrain_trainer.evaluation.error_analysis.gaps import PartError, compare_in_order
from llmtrain_trainer.evaluation.error_analysis.label_errors import (
    compute_doubt,
    compute_thresholds,
    find_label_errors,
)
from llmtrain_trainer.evaluation.error_analysis.mismatch import (
    compare_parts,
    compute_auc_p_value,
    compute_distance,
)
from llmtrain_trainer.evaluation.error_analysis.slices import (
    SliceKind,
    compare_slices,
    compute_p_value,
    correct_by_holm,
)

LABELS = ("fruit", "tool", "town")
WORDS = (
    ("apple", "pear", "plum", "grape"),
    ("saw", "axe", "drill", "file"),
    ("york", "bonn", "rome", "oslo"),
)
COMMON = ("the", "old", "some", "very", "one", "good", "red", "with", "for", "from")


def write_texts(count: int, seed: int, extra: Sequence[str] = ()) -> LabelledTexts:
    """Texts of a few common words and one of their label; `extra` words are added to each."""
    random = np.random.default_rng(seed)
    true = random.integers(3, size=count)
    texts = [
        " ".join(
            [*random.choice(COMMON, size=random.integers(3, 9)), random.choice(WORDS[kind]), *extra]
        )
        for kind in true
    ]
    return LabelledTexts(
        texts=texts,
        labels=LABELS,
        true=true,
        facts=[Facts(digest=f"{seed:016x}{i:016x}") for i in range(count)],
        lengths=np.array([len(text.split()) for text in texts]),
    )


def flip(texts: LabelledTexts, numbers: Sequence[int]) -> LabelledTexts:
    true = texts.true.copy()
    true[numbers] = (true[numbers] + 1) % 3
    return LabelledTexts(
        texts=texts.texts, labels=LABELS, true=true, facts=texts.facts, lengths=texts.lengths
    )


def predict(texts: LabelledTexts, wrong: NDArray[np.bool_] | Sequence[bool]) -> Predictions:
    """Predictions that are sure of the label, or of another one where they are to be wrong."""
    said = (texts.true + np.asarray(wrong)) % 3
    return Predictions(
        labels=LABELS,
        true=texts.true,
        probabilities=np.eye(3)[said] * 0.7 + 0.1,
        facts=texts.facts,
        lengths=texts.lengths,
    )


def test_flipped_labels_are_found_and_named() -> None:
    flipped = [*range(0, 400, 40)]
    noisy = flip(write_texts(400, 0), flipped)
    predictions = predict_out_of_fold(noisy, num_folds=4, seed=0)
    assert predictions is not None
    doubt, _ = compute_doubt(predictions)
    assert {*np.argsort(-doubt)[:9].tolist()} <= {*flipped}
    found = find_label_errors(predictions)
    assert 5 <= len(found) <= 10
    assert all(item.suggested == (item.given + 2) % 3 for item in found)


def test_a_label_of_which_the_model_is_never_sure_needs_less() -> None:
    """The worked example: thresholds are the mean probabilities of the labels, 0.8 and 0.5."""
    predictions = Predictions(
        labels=("a", "b", "c"),
        true=np.array([0, 0, 0, 1, 1]),
        probabilities=np.array(
            [[0.95, 0.05, 0], [0.97, 0.03, 0], [0.48, 0.52, 0], [0.5, 0.5, 0], [0.5, 0.5, 0]]
        ),
        facts=[Facts()] * 5,
        lengths=np.ones(5, dtype=np.int64),
    )
    assert compute_thresholds(predictions).tolist() == [pytest.approx(0.8), 0.5, np.inf]
    [found] = find_label_errors(predictions)
    assert (found.document, found.given, found.suggested) == (2, 0, 1)
    assert found.confidence == pytest.approx(0.52)


def test_copies_are_in_one_fold() -> None:
    facts = [Facts(digest=str(number % 7)) for number in range(28)]
    folds = divide_into_folds(facts, np.arange(28) % 2, num_folds=3, seed=0)
    assert all(len({*folds[number::7].tolist()}) == 1 for number in range(7))
    assert len({*folds.tolist()}) == 3


def test_slices_are_worse_or_not() -> None:
    texts = write_texts(400, 1)
    random = np.random.default_rng(0)
    base = random.random(400) < 0.05
    assert not any(item.is_worse for item in compare_slices(predict(texts, base)))
    is_town = texts.true == 2
    worst = compare_slices(predict(texts, base | (is_town & (random.random(400) < 0.3))))[0]
    assert (worst.kind, worst.name, worst.is_worse) == (SliceKind.LABEL, "town", True)
    assert worst.error_rate > 0.2 > 0.1 > worst.rest_error_rate


def test_p_values_are_those_of_published_examples() -> None:
    """Fisher's tea: three of four cups right by chance or better; Holm as in R's p.adjust."""
    is_wrong = np.array([1, 1, 1, 0, 1, 0, 0, 0], dtype=bool)
    inside = np.array([1, 1, 1, 1, 0, 0, 0, 0], dtype=bool)
    assert compute_p_value(is_wrong, inside) == pytest.approx(17 / 70)
    assert correct_by_holm([0.01, 0.02, 0.03, 0.005]) == pytest.approx([0.03, 0.04, 0.04, 0.02])
    assert compute_auc_p_value(0.5, 10, 20) == pytest.approx(0.5)
    same, other = np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.0, 1.0])
    assert compute_distance(same, same) == 0.0
    assert compute_distance(same, other) == pytest.approx(1.0)


def test_a_shift_and_a_leak_are_seen_and_no_shift_is_not() -> None:
    learned = write_texts(200, 2)
    alike = compare_parts(learned, write_texts(120, 3), seed=0)
    assert alike is not None
    assert not alike.is_shifted
    assert not alike.leaked
    shifted = compare_parts(learned, write_texts(120, 4, extra=["invoice"]), seed=0)
    assert shifted is not None
    assert shifted.tells_apart
    assert shifted.has_other_words
    assert shifted.has_other_lengths
    assert shifted.held_out_words[0] == "invoice"
    leaked = compare_parts(learned, learned, seed=0)
    assert leaked is not None
    assert len(leaked.leaked) == 200


@pytest.mark.parametrize(
    ("errors", "significant"),
    [
        ({Part.TRAIN: 10, Part.VALIDATION: 60}, [True]),
        ({Part.TRAIN: 10, Part.VALIDATION: 12}, [False]),
        ({Part.TRAIN: 50, Part.VALIDATION: 50, Part.TEST: 90}, [False, True]),
        ({Part.TRAIN: 0, Part.VALIDATION: 0}, [False]),
    ],
)
def test_gaps_count_where_chance_hardly_gives_them(
    errors: dict[Part, int], significant: list[bool]
) -> None:
    parts = [PartError(part=part, documents=500, errors=count) for part, count in errors.items()]
    assert [gap.is_significant for gap in compare_in_order(parts)] == significant


def test_errors_are_grouped_by_their_words() -> None:
    first, second = write_texts(40, 5, ["refund", "card"]), write_texts(40, 6, ["login", "phone"])
    rest = write_texts(200, 7)
    together = LabelledTexts(
        texts=[*first.texts, *second.texts, *rest.texts],
        labels=LABELS,
        true=np.concatenate([first.true, second.true, rest.true]),
        facts=[*first.facts, *second.facts, *rest.facts],
        lengths=np.concatenate([first.lengths, second.lengths, rest.lengths]),
    )
    wrong = np.arange(280) < 80
    groups = group_errors(predict(together, wrong), together.texts, seed=0)
    assert sum(group.documents for group in groups) == 80
    assert {"refund", "login"} <= {word for group in groups for word in group.words[:2]}
    assert group_errors(predict(together, wrong & False), together.texts, seed=0) == []


def test_an_explanation_names_what_can_be_done() -> None:
    flipped = [*range(0, 400, 40)]
    held_out, learned = write_texts(150, 8), flip(write_texts(400, 0), flipped)
    wrong = (held_out.true == 1) & (np.arange(150) % 2 == 0)
    explanation = explain_errors(
        predict(held_out, wrong),
        held_out,
        learned,
        {Part.TRAIN: (400, 0), Part.TEST: (150, int(wrong.sum()))},
        part=Part.TEST,
        num_sources=1,
        seed=0,
    )
    by_kind = {(finding.kind, finding.part): finding for finding in explanation.findings}
    mislabelled = by_kind[FindingKind.MISLABELLED, Part.TRAIN]
    named = {a.document for a in mislabelled.relabel} | {a.document for a in mislabelled.drop}
    assert named <= {learned.facts[number].digest for number in flipped}
    assert f"{len(named)} of 400 train documents are probably mislabelled" in mislabelled.summary
    slice_finding = by_kind[FindingKind.WEAK_SLICE, Part.TEST]
    assert slice_finding.summary.startswith("The model is worse on label tool")
    assert "variance" in by_kind[FindingKind.GAP, Part.TEST].summary
    assert (FindingKind.MISMATCH, Part.TEST) not in by_kind
    assert explanation.confident[0].label == "tool"
    said = explanation.dump()
    assert said["parts"][0]["errorRate"] == 0.0
    assert said["slices"][0]["pValue"] < 0.05
    json.dumps(said)
