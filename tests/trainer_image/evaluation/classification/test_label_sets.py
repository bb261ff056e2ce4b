"""Metrics of label sets, against those that are counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from llmtrain_trainer.evaluation.classification.label_sets import (
    LabelSets,
    compute_set_metrics,
    estimate_set_intervals,
    score_set_labels,
)
from llmtrain_trainer.evaluation.classification.set_reporting import predict_sets_by_words
from llmtrain_trainer.evaluation.losses import compute_base_rate_loss

SETS = LabelSets(
    labels=("a", "b", "never"),
    true=np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]], dtype=np.bool_),
    probabilities=np.array([[0.9, 0.4, 0.1], [0.8, 0.1, 0.2], [0.6, 0.2, 0.1], [0.3, 0.7, 0.1]]),
)


def test_metrics_are_those_counted_by_hand() -> None:
    metrics = compute_set_metrics(SETS)
    assert metrics["accuracy"] == 2 / 4  # the second and the last
    assert metrics["f1_micro"] == pytest.approx(2 * 3 / (4 + 4))
    f1 = [2 * 2 / (2 + 3), 2 * 1 / (2 + 1), 0.0]
    assert metrics["f1_macro"] == pytest.approx(np.mean(f1))
    assert metrics["f1_weighted"] == pytest.approx((2 * f1[0] + 2 * f1[1]) / 4)
    assert metrics["average_precision"] == pytest.approx(1.0)
    assert metrics["roc_auc"] == pytest.approx(1.0)
    assert [score.f1 for score in score_set_labels(SETS)] == pytest.approx(f1)
    assert score_set_labels(SETS)[2].average_precision is None
    intervals = estimate_set_intervals(SETS, seed=0)
    for name in ("accuracy", "f1_macro", "f1_micro", "f1_weighted"):
        low, high = intervals[name]
        value = metrics[name]
        assert value is not None
        assert low <= value <= high


def test_a_single_label_is_a_question_of_its_own() -> None:
    alone = LabelSets(labels=("a",), true=SETS.true[:, :1], probabilities=SETS.probabilities[:, :1])
    metrics = compute_set_metrics(alone)
    assert metrics["accuracy"] == 3 / 4


def test_the_baseline_knows_how_common_labels_are() -> None:
    marks = np.array([[1, 0], [1, 0], [0, 0], [1, 1]])
    share = np.array([4 / 6, 2 / 6])  # smoothed by one
    expected = -np.where(marks == 1, np.log(share), np.log(1 - share)).mean()
    assert compute_base_rate_loss(marks, marks) == pytest.approx(expected)


def test_words_tell_each_label_by_itself() -> None:
    texts = ["an apple", "a saw", "an apple and a saw", "a stone"] * 10
    true = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 1]] * 10, dtype=np.bool_)
    said = predict_sets_by_words(texts, true, ["saw apple", "stone"])
    assert said is not None
    assert (said > 0.5).tolist() == [[True, True, True], [False, False, True]]
    assert predict_sets_by_words(["?", "!"], true[:2], ["?"]) is None
