"""Which labels of the data are probably wrong, by confident learning.

Below: `predictions` that were made without having seen the document. Above: `findings`.

How many there are is counted as Northcutt, Jiang and Chuang 2021 (Confident Learning,
arXiv:1911.00068, section 3.1): a model is confident of a label where it gives it at least the mean
probability that it gives it over the documents that have it, so that a label of which it is never
sure needs less. Counted are the documents for which it is confident of another label than theirs,
the off-diagonals of the confident joint.

Which ones is said by the probability of the best other label as a share of its and their own
label's, the greatest first. On real text this ranks better than the probability of the own label
alone and than the difference of the two; docs/evaluation.md has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmtrain_trainer.evaluation.classification.predictions import Predictions

TOLERANCE = 1e-9
"""Of probabilities that are as large as the mean of which they are a part."""

CLEAR_CONFIDENCE = 0.98
"""The suggested label must be fifty times as probable as the given one."""

CLEAR_PROBABILITY = 0.5
"""And more probable than all others together. That a second model of words agrees says nothing
beyond these two; docs/log.md has what was tried."""

LEAST = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelError:
    """A document whose label is probably wrong."""

    document: int
    """Its number among the predictions."""

    given: int
    """Number of its label in the data."""

    suggested: int
    """Number of the label that it probably has."""

    confidence: float
    """Probability of the suggested label against the given one, by the model."""

    probability: float
    """Of the suggested label among all."""

    @property
    def is_suggestion_clear(self) -> bool:
        """Whether the suggested label is to be believed, and not only the given one doubted."""
        return self.confidence >= CLEAR_CONFIDENCE and self.probability >= CLEAR_PROBABILITY


def find_label_errors(predictions: Predictions) -> list[LabelError]:
    """Return the documents whose label is probably wrong, the surest first.

    Args:
        predictions: made by a model that did not learn from these documents.
    """
    doubt, others = compute_doubt(predictions)
    found = np.argsort(-doubt, kind="stable")[: count_label_errors(predictions)]
    return [
        LabelError(
            document=number,
            given=int(predictions.true[number]),
            suggested=int(others[number]),
            confidence=float(doubt[number]),
            probability=float(predictions.probabilities[number, others[number]]),
        )
        for number in found.tolist()
    ]


def count_label_errors(predictions: Predictions) -> int:
    """Return for how many documents the model is confident of another label than theirs."""
    probabilities = predictions.probabilities
    is_sure = probabilities >= compute_thresholds(predictions) - TOLERANCE
    # Of several labels that the model is sure of, the most probable one counts.
    best = np.where(is_sure, probabilities, -1.0).argmax(axis=1)
    return int((is_sure.any(axis=1) & (best != predictions.true)).sum())


def compute_thresholds(predictions: Predictions) -> NDArray[np.float64]:
    """Return the mean probability of each label over the documents that have it [labels].

    A label that no document has is never sure.
    """
    size = len(predictions.labels)
    own = predictions.probabilities[np.arange(len(predictions)), predictions.true]
    counts = np.bincount(predictions.true, minlength=size)
    sums = np.bincount(predictions.true, weights=own, minlength=size)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


def compute_doubt(
    predictions: Predictions,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return how probable the best other label is against each document's own, and which that is.

    From 0 to 1: p(best other) / (p(best other) + p(own)); 0.5 where they are equal [documents].
    """
    others = predictions.probabilities.copy()
    rows = np.arange(len(predictions))
    own = others[rows, predictions.true].copy()
    others[rows, predictions.true] = -1.0
    best = others.max(axis=1)
    doubt: NDArray[np.float64] = best / np.maximum(best + own, LEAST)
    return doubt, others.argmax(axis=1)
