"""The smallest model that is good enough: which size is tried next, and which one it is.

Below: the contract. Above: `search` trains them. Pure.

Sizes are tried from the largest down, and the first that is not good enough ends the search: the
loss of a model falls smoothly with its size (Kaplan et al. 2020, arXiv:2001.08361), so that what is
below is worse still.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llmtrain_api.directions import is_lower_better

UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}
SIZE = re.compile(r"(\d+(?:\.\d+)?)([kmbg]?)", re.IGNORECASE)
TOLERANCE = re.compile(r"(\d+(?:\.\d+)?)\s*(%?)")
PERCENT = 100.0


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much worse than the largest a model may be."""

    amount: float
    is_relative: bool
    """Whether `amount` is a share of the largest model's value."""

    def find_limit(self, metric: str, reference: float) -> float:
        """Return the worst value of a metric that is good enough."""
        room = abs(reference) * self.amount if self.is_relative else self.amount
        return reference + room if is_lower_better(metric) else reference - room


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a size."""

    size: int
    value: float | None
    """Of the metric; None: it was not measured."""

    passed: bool
    """Whether it satisfies the gates of its job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How far a search has come."""

    limit: float | None
    """The worst value that is good enough; None: the largest is not measured."""

    best: int | None
    """The smallest size that is good enough, so far; None: there is none."""

    following: int | None
    """The size to try now; None: the search has ended."""


def parse_sizes(text: str) -> list[int]:
    """Read sizes as 12M,6M,500k; return them from the largest down, each once.

    Raises:
        ValueError: names what is no size.
    """
    sizes = set()
    for word in text.split(","):
        match = SIZE.fullmatch(word.strip())
        if match is None:
            raise ValueError(f"{word.strip()!r} is no size; give parameters as 12M, 1.3B or 500k")
        sizes.add(round(float(match[1]) * UNITS[match[2].lower()]))
    if len(sizes) < 2:
        raise ValueError("give at least two sizes: the largest is what the others are held against")
    return sorted(sizes, reverse=True)


def parse_tolerance(text: str) -> Tolerance:
    """Read 2% (of the largest model's value) or 0.05 (of the metric's own unit).

    Raises:
        ValueError: it is neither.
    """
    match = TOLERANCE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no tolerance; give 2% of the largest model's value, or 0.05")
    amount = float(match[1])
    return Tolerance(amount / PERCENT if match[2] else amount, bool(match[2]))


def format_size(size: int) -> str:
    """Return a size as in the name of a job: 12m, 1.3b is 1300m, 500k."""
    for unit, factor in (("m", 10**6), ("k", 10**3)):
        if size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def follow_search(
    sizes: Sequence[int], outcomes: Sequence[Outcome], metric: str, tolerance: Tolerance
) -> Search:
    """Say which size is to be tried now, and which is the best so far.

    Args:
        sizes: from the largest down.
        outcomes: of the first of them, in their order.
        metric: by which they are judged.
        tolerance: how much worse than the largest is good enough.
    """
    if not outcomes:
        return Search(limit=None, best=None, following=sizes[0])
    reference = outcomes[0].value
    if reference is None or not outcomes[0].passed:
        return Search(limit=None, best=None, following=None)
    limit = tolerance.find_limit(metric, reference)
    good = [outcome.size for outcome in outcomes if _is_good(outcome, metric, limit)]
    has_ended = len(good) < len(outcomes) or len(outcomes) == len(sizes)
    following = None if has_ended else sizes[len(outcomes)]
    return Search(limit=limit, best=good[-1], following=following)


def _is_good(outcome: Outcome, metric: str, limit: float) -> bool:
    if outcome.value is None or not outcome.passed:
        return False
    return outcome.value <= limit if is_lower_better(metric) else outcome.value >= limit
