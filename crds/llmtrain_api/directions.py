"""Which of two values of a metric is the better one.

Below: nothing. Above: comparisons of runs mark the best by it, a search for the smallest model that
is good enough stops by it.
"""

from __future__ import annotations

LOWER_IS_BETTER = frozenset(
    {
        "loss",
        "perplexity",
        "bits_per_byte",
        "unsupported_rate",
        "contradicted_share",
        "personal_data_rate",
        "toxic_rate",
        "memorized_rate",
        "longest_overlap",
        "likelihood_gap",
        "largest_gap",
        "exposure",
        "largest_exposure",
        "extracted_rate",
        "ece",
        "brier_score",
        "byte_perplexity",
        "ter",
        "word_perplexity",
        "latency_seconds",
    }
)
"""Metrics that are to be small, without the name of their suite; all others are to be great."""


def is_lower_better(metric: str) -> bool:
    """Return whether a metric, as gates name it, is the better the smaller it is."""
    return metric.rpartition(".")[2] in LOWER_IS_BETTER


def choose_better(metric: str, first: float, second: float) -> float:
    """Return the better one of two values of a metric."""
    return min(first, second) if is_lower_better(metric) else max(first, second)
