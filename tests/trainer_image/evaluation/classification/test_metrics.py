"""Metrics of labels are scikit-learn's, and their intervals hold what they promise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score, roc_auc_score

from llmtrain_api.evaluation import CLASS_METRICS
from llmtrain_trainer.dataset.facts import Facts
from llmtrain_trainer.evaluation.classification.calibration import (
    compute_calibration_error,
    measure_calibration,
)
from llmtrain_trainer.evaluation.classification.intervals import (
    average_scores,
    compute_wilson_interval,
    estimate_intervals,
)
from llmtrain_trainer.evaluation.classification.metrics import compute_metrics, score_labels
from llmtrain_trainer.evaluation.classification.predictions import Predictions, write_predictions
from llmtrain_trainer.evaluation.classification.record import list_confusions

PER_HUNDRED = np.array([[50, 5, 3], [4, 20, 3], [2, 3, 10]])
"""Documents [true, predicted]."""


def make_predictions(
    true: list[int], probabilities: list[list[float]] | NDArray[np.float64]
) -> Predictions:
    given = np.array(probabilities)
    return Predictions(
        labels=tuple("abcdefgh"[: given.shape[1]]),
        true=np.array(true),
        probabilities=given,
        facts=[Facts(digest=f"{i:032x}", source=i % 2, language="en") for i in range(len(true))],
        lengths=np.arange(len(true)),
    )


def draw_predictions(documents: int, labels: int, seed: int = 0) -> Predictions:
    random = np.random.default_rng(seed)
    scores = random.random((documents, labels)) ** 3
    return make_predictions(
        random.integers(labels, size=documents).tolist(), scores / scores.sum(axis=1)[:, None]
    )


def test_metrics_are_those_of_scikit_learn() -> None:
    made = draw_predictions(90, 4)
    # The last label has no document, and may be predicted all the same.
    predictions = make_predictions((made.true % 3).tolist(), made.probabilities)
    metrics = compute_metrics(predictions)
    assert set(metrics) == {"accuracy", *CLASS_METRICS}
    for average in ("macro", "micro", "weighted"):
        assert metrics[f"f1_{average}"] == pytest.approx(
            f1_score(predictions.true, predictions.predicted, average=average), abs=1e-12
        )
    aucs = [roc_auc_score(predictions.true == k, made.probabilities[:, k]) for k in range(3)]
    assert metrics["roc_auc"] == pytest.approx(np.mean(aucs), abs=1e-12)
    scores = score_labels(predictions)
    assert [score.roc_auc for score in scores[:3]] == pytest.approx(aucs)
    assert scores[3].roc_auc is None
    assert sum(score.documents for score in scores) == 90
    assert metrics["recall_weighted"] == pytest.approx(metrics["accuracy"])
    said = average_scores(predictions.confusion[None])
    assert {name: values[0] for name, values in said.items()} == pytest.approx(
        {name: metrics[name] for name in said}, abs=1e-12
    )


def test_one_label_alone_cannot_be_ranked() -> None:
    metrics = compute_metrics(make_predictions([0, 0], [[0.9, 0.1], [0.2, 0.8]]))
    assert (metrics["roc_auc"], metrics["average_precision"]) == (None, None)
    assert metrics["accuracy"] == 0.5


def test_confusions_are_the_commonest() -> None:
    confusion = np.array([[9, 2, 0], [3, 9, 0], [0, 0, 9]])
    assert list_confusions(("a", "b", "c"), confusion, 5) == [("b", "a", 3), ("a", "b", 2)]


def test_calibration_error_is_the_worked_one() -> None:
    """Two documents at 0.9, of which one is right; two at 0.6, which both are right."""
    predictions = make_predictions([0, 1, 0, 0], [[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    bins = measure_calibration(predictions.confidence, predictions.is_right)
    assert [(item.documents, item.accuracy) for item in bins] == [(2, 1.0), (2, 0.5)]
    assert bins[0].low < 0.6 <= bins[0].high
    assert compute_calibration_error(bins) == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """95 % of the time; of 150 documents by a few points less."""
    random = np.random.default_rng(0)
    truth = {name: values[0] for name, values in average_scores(PER_HUNDRED[None]).items()}
    truth["accuracy"] = np.trace(PER_HUNDRED) / 100
    held = dict.fromkeys(truth, 0)
    for seed in range(200):
        counts = random.multinomial(150, PER_HUNDRED.reshape(-1) / 100).reshape(3, 3)
        intervals = estimate_intervals(counts, seed=seed)
        for name, value in truth.items():
            held[name] += intervals[name][0] <= value <= intervals[name][1]
    assert all(180 <= count <= 199 for count in held.values()), held


def test_an_interval_says_something_where_all_are_right() -> None:
    low, high = compute_wilson_interval(20, 20)
    assert low == pytest.approx(0.8389, abs=1e-4)
    assert high == 1.0


def test_table_is_kept_without_ids(tmp_path: Path) -> None:
    predictions = make_predictions([0, 1], [[0.75, 0.25], [0.5, 0.5]])
    write_predictions(predictions, tmp_path / "table")
    table = pq.read_table(tmp_path / "table")
    assert table.schema.metadata[b"labels"] == b"a\nb"
    rows = table.to_pylist()
    assert rows[1] == {
        "document": f"{1:032x}",
        "label": "b",
        "predicted": "a",
        "source": 1,
        "language": "en",
        "tokens": 1,
        "p": [0.5, 0.5],
    }
