"""Whether an answer is true to its source, as far as that can be told without a model of language.

Below: `facts`. Above: `suites`. docs/evaluation.md says what is found, what is not, and how often
that is wrong on a benchmark with injected errors (`tests/bench/bench_consistency.py`).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmtrain_trainer.evaluation.facts import (
    Date,
    FactKind,
    Facts,
    Name,
    Number,
    extract_facts,
    list_words,
)

LEAST_ROUNDED_DIGITS = 2
"""A number of so many significant digits may be a longer one of the source, rounded."""

SHORT_ANSWER_WORDS = 3
"""An answer of so few words is no sentence: its first word has a capital only as a name."""


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A fact of an answer that its source does not have."""

    kind: FactKind
    text: str


def find_unsupported(answer: str, source: str) -> list[Unsupported]:
    """Return the dates, numbers and names of an answer that are not in its source.

    Args:
        answer: a text that should state only what the source does.
        source: that text.
    """
    stated, given = extract_facts(answer), extract_facts(source)
    known, initials = set(list_words(source)), _find_initials(given)
    is_short = len(answer.split()) <= SHORT_ANSWER_WORDS
    repeated = {word for name in stated.names if not name.begins_sentence for word in name.words}
    found = [
        Unsupported(FactKind.DATE, date.text)
        for date in stated.dates
        if not any(_agrees(date, other) for other in given.dates)
    ]
    found += [
        Unsupported(FactKind.NUMBER, number.text)
        for number in stated.numbers
        if not _is_given(number, given)
    ]
    for name in stated.names:
        words = name.words
        if name.begins_sentence and not is_short and words[0] not in repeated:
            words = words[1:]  # the first may have its capital by its place
        if not known.issuperset(words) and not _is_abbreviated(name, known, initials):
            found.append(Unsupported(FactKind.NAME, name.text))
    return found


def measure_coverage(answer: str, source: str) -> float | None:
    """Return the share of the answer's words that the source has; None for an answer without words.

    It is the coverage of Grusky et al. 2018 (arXiv:1804.11283): of how many words an extract of the
    source could consist.
    """
    words = list_words(answer)
    known = set(list_words(source))
    return sum(word in known for word in words) / len(words) if words else None


def measure_agreement(
    answers: Sequence[str], compare: Callable[[str, Sequence[str]], float]
) -> float:
    """Return how much answers to one question agree: the mean over all pairs of them.

    A model that knows answers alike each time (Wang et al. 2022, arXiv:2203.11171; Manakul et al.
    2023, arXiv:2303.08896); one that agrees with itself may still be wrong.

    Args:
        answers: at least two.
        compare: the likeness of an answer to references, from 0 to 1.
    """
    pairs = [compare(first, [second]) for first, second in itertools.combinations(answers, 2)]
    return math.fsum(pairs) / len(pairs)


def _agrees(date: Date, other: Date) -> bool:
    """Tell whether the source's date has all that the answer's says."""
    return (
        date.month == other.month
        and date.day in (None, other.day)
        and date.year in (None, other.year)
    )


def _is_given(number: Number, given: Facts) -> bool:
    parts = {part for date in given.dates for part in (date.year, date.day) if part is not None}
    if number.value in parts:
        return True
    return any(number.value == other.value or _is_rounded(number, other) for other in given.numbers)


def _is_rounded(number: Number, other: Number) -> bool:
    if number.digits < LEAST_ROUNDED_DIGITS or number.digits >= other.digits:
        return False
    return f"{other.value:.{number.digits - 1}e}" == f"{number.value:.{number.digits - 1}e}"


def _find_initials(given: Facts) -> set[str]:
    """Return the first letters of each name of several words, as `un` of United Nations."""
    return {"".join(word[0] for word in name.words) for name in given.names if len(name.words) > 1}


def _is_abbreviated(name: Name, known: set[str], initials: set[str]) -> bool:
    """Tell whether the source has the long or the short form of an abbreviation."""
    if len(name.words) == 1:
        return re.sub(r"\W", "", name.words[0]) in initials
    return "".join(word[0] for word in name.words) in known
