"""Whether a model is as often right as it says.

Below: numpy. Above: `metrics`, `reporting`, and those of label sets; `charts` draws it.

Documents are put into bins by how probable the model holds the label that it predicts. In each bin
the share that is right should be as large as that. The expected calibration error is the mean
difference, weighted by documents, over bins of equal width (Guo et al. 2017, arXiv:1706.04599,
section 2, with 15 bins). Of few documents it is never 0, even where probabilities are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Documents of which the model is about equally sure."""

    low: float
    """Their confidence is above this."""

    high: float
    """And at most this."""

    documents: int
    confidence: float
    """Mean probability of the predicted label."""

    accuracy: float
    """Share of the documents for which it is right."""


def measure_calibration(
    confidence: NDArray[np.float64], is_right: NDArray[np.bool_]
) -> list[ReliabilityBin]:
    """Return the bins that have documents, from the least confidence on.

    Args:
        confidence: how probable what is said of each document is held [documents].
        is_right: whether it is so [documents].
    """
    places = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    return [
        ReliabilityBin(
            low=number / NUM_BINS,
            high=(number + 1) / NUM_BINS,
            documents=int(inside.sum()),
            confidence=float(confidence[inside].mean()),
            accuracy=float(is_right[inside].mean()),
        )
        for number in range(NUM_BINS)
        if (inside := places == number).any()
    ]


def compute_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Return the expected calibration error, from 0 to 1."""
    total = sum(item.documents for item in bins)
    gaps = (item.documents * abs(item.accuracy - item.confidence) for item in bins)
    return float(sum(gaps)) / total
