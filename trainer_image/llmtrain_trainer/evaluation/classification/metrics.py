"""How well labels are predicted, in numbers; scikit-learn computes them.

Below: `predictions`, scikit-learn. Above: `reporting`, for the model and for what it is
compared with; gates name the metrics.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    precision_recall_fscore_support,
    roc_auc_score,
)

from llmtrain_api.evaluation import AVERAGES
from llmtrain_trainer.evaluation.classification.calibration import (
    compute_calibration_error,
    measure_calibration,
)
from llmtrain_trainer.evaluation.classification.predictions import Predictions
from llmtrain_trainer.evaluation.classification.record import LabelScore


def compute_metrics(predictions: Predictions) -> dict[str, float | None]:
    """Return what gates may name of labels; None: it cannot be told of these documents.

    Averages of precision, recall and F1 are over the labels that occur or are predicted, as in
    scikit-learn; a label that is never predicted has the precision 0. ROC AUC and average precision
    are means over the labels that some documents have and others have not, each against the rest.
    """
    true, predicted = predictions.true, predictions.predicted
    metrics: dict[str, float | None] = {"accuracy": float(accuracy_score(true, predicted))}
    for average in AVERAGES:
        precision, recall, f1, _ = precision_recall_fscore_support(
            true, predicted, average=average, zero_division=0.0
        )
        metrics |= {
            f"precision_{average}": float(precision),
            f"recall_{average}": float(recall),
            f"f1_{average}": float(f1),
        }
    ranked = [_rank_label(predictions, number) for number in range(len(predictions.labels))]
    known = np.array([pair for pair in ranked if pair is not None])
    metrics["roc_auc"] = float(known[:, 0].mean()) if len(known) else None
    metrics["average_precision"] = float(known[:, 1].mean()) if len(known) else None
    metrics["ece"] = compute_calibration_error(
        measure_calibration(predictions.confidence, predictions.is_right)
    )
    return metrics


def score_labels(predictions: Predictions) -> list[LabelScore]:
    """Return how well each label is predicted, in the order of the labels."""
    numbers = range(len(predictions.labels))
    precision, recall, f1, documents = precision_recall_fscore_support(
        predictions.true, predictions.predicted, labels=[*numbers], zero_division=0.0
    )
    predicted = np.bincount(predictions.predicted, minlength=len(numbers))
    scores = []
    for number in numbers:
        ranked = _rank_label(predictions, number)
        scores.append(
            LabelScore(
                label=predictions.labels[number],
                documents=int(documents[number]),
                predicted=int(predicted[number]),
                precision=float(precision[number]),
                recall=float(recall[number]),
                f1=float(f1[number]),
                roc_auc=None if ranked is None else ranked[0],
                average_precision=None if ranked is None else ranked[1],
            )
        )
    return scores


def _rank_label(predictions: Predictions, number: int) -> tuple[float, float] | None:
    return rank_documents(predictions.true == number, predictions.probabilities[:, number])


def rank_documents(
    has_it: NDArray[np.bool_], scores: NDArray[np.float64]
) -> tuple[float, float] | None:
    """Return ROC AUC and average precision of a label against all others.

    None where no document has it, or all have.

    Args:
        has_it: whether a document has the label [documents].
        scores: how probable the model holds that [documents].
    """
    if has_it.all() or not has_it.any():
        return None
    return float(roc_auc_score(has_it, scores)), float(average_precision_score(has_it, scores))
