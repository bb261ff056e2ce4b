"""Between what a metric would probably lie if other documents had been held out.

Below: numpy. Above: `reporting`.

The metrics are functions of how often each label was taken for each. To draw as many documents
anew, with replacement, is to draw these counts from a multinomial distribution, so the bootstrap
(Efron 1979) needs no pass over documents. The interval has the middle 95 % of what comes out (the
percentile method). Documents that are copies of each other make it too narrow.

Accuracy is a share, whose interval is known without drawing: Wilson's (1927), which says something
even where every document is right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
NORMAL_QUANTILE = 1.959963984540054
"""Of (1 + LEVEL) / 2."""

NUM_DRAWS = 1000
DRAWS_AT_A_TIME = 100
"""Of which each takes eight bytes for each pair of labels."""

Interval = tuple[float, float]


def estimate_intervals(confusion: NDArray[np.int64], *, seed: int) -> dict[str, Interval]:
    """Return the 95 % interval of accuracy, and of averages of precision, recall and F1.

    Args:
        confusion: how often each label was taken for each [true, predicted].
        seed: of what is drawn.
    """
    total = int(confusion.sum())
    intervals = {"accuracy": compute_wilson_interval(int(np.trace(confusion)), total)}
    random = np.random.default_rng(seed)
    cells = np.flatnonzero(confusion)
    shares = confusion.reshape(-1)[cells] / total
    drawn: dict[str, list[NDArray[np.float64]]] = {}
    for _ in range(NUM_DRAWS // DRAWS_AT_A_TIME):
        counts = np.zeros((DRAWS_AT_A_TIME, confusion.size), dtype=np.int64)
        counts[:, cells] = random.multinomial(total, shares, size=DRAWS_AT_A_TIME)
        for name, values in average_scores(counts.reshape(-1, *confusion.shape)).items():
            drawn.setdefault(name, []).append(values)
    edges = [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0]
    for name, parts in drawn.items():
        low, high = np.quantile(np.concatenate(parts), edges)
        intervals[name] = (float(low), float(high))
    return intervals


def average_scores(counts: NDArray[np.int64]) -> Mapping[str, NDArray[np.float64]]:
    """Return precision, recall and F1 as macro and weighted averages, as scikit-learn has them.

    Args:
        counts: several tables of counts [draws, true, predicted].
    """
    hits = np.diagonal(counts, axis1=1, axis2=2).astype(np.float64)
    occurs, said = counts.sum(axis=2), counts.sum(axis=1)
    scores = {
        "precision": hits / np.maximum(said, 1),
        "recall": hits / np.maximum(occurs, 1),
        "f1": 2.0 * hits / np.maximum(occurs + said, 1),
    }
    counted = (occurs + said > 0).sum(axis=1)
    macro = {f"{name}_macro": score.sum(axis=1) / counted for name, score in scores.items()}
    weighted = {
        f"{name}_weighted": (score * occurs).sum(axis=1) / occurs.sum(axis=1)
        for name, score in scores.items()
    }
    return {**macro, **weighted}


def compute_wilson_interval(right: int, total: int) -> Interval:
    """Return the 95 % interval of a share of which `right` of `total` were seen (Wilson 1927)."""
    z_square = NORMAL_QUANTILE**2
    middle = (right + z_square / 2.0) / (total + z_square)
    share = right / total
    spread = (
        NORMAL_QUANTILE
        / (total + z_square)
        * math.sqrt(total * share * (1.0 - share) + z_square / 4.0)
    )
    return max(0.0, middle - spread), min(1.0, middle + spread)
