"""What a model made of the examples of a suite, and which of them are worth a look.

Below: the contract's `Suite`. Above: `suites` fills it, `report` shows it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmtrain_api.suites import Suite

NUM_RANKING_SCORES = 3
"""Scores that every answer has, by which they are ranked."""

NUM_SHOWN = 5
"""Worst and best examples that are kept, each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An example, and what the model made of it."""

    place: str
    prompt: str
    answer: str
    """With placeholders for personal data."""

    references: tuple[str, ...]
    scores: Mapping[str, float]
    """By metric; the first ones say which answers are the best."""

    unsupported: tuple[str, ...] = ()
    """Facts of the answer that its source does not have."""

    def dump(self) -> dict[str, Any]:
        """Return JSON-ready camelCase data."""
        return {
            "place": self.place,
            "prompt": self.prompt,
            "answer": self.answer,
            "references": list(self.references),
            "scores": dict(self.scores),
            "unsupported": list(self.unsupported),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteResult:
    """What came of a suite."""

    suite: Suite
    num_examples: int
    num_cut: int
    """Prompts that lost their beginning, since the context had no room for them."""

    metrics: Mapping[str, float | None]
    """By name, without that of the suite."""

    worst: Sequence[Answer]
    best: Sequence[Answer]

    def dump(self) -> dict[str, Any]:
        """Return JSON-ready camelCase data."""
        return {
            "name": self.suite.name,
            "kind": self.suite.kind.value,
            "uri": self.suite.uri,
            "examples": self.num_examples,
            "promptsCut": self.num_cut,
            "metrics": dict(self.metrics),
            "worst": [answer.dump() for answer in self.worst],
            "best": [answer.dump() for answer in self.best],
        }


def make_result(
    suite: Suite,
    answers: Sequence[Answer],
    metrics: Mapping[str, float | None],
    *,
    num_cut: int,
) -> SuiteResult:
    """Put together a result; none of the worst answers is among the best."""
    ranked = sorted(answers, key=_rank)
    num_worst = min(NUM_SHOWN, (len(ranked) + 1) // 2)
    worst, others = ranked[:num_worst], ranked[num_worst:]
    return SuiteResult(
        suite=suite,
        num_examples=len(answers),
        num_cut=num_cut,
        metrics=metrics,
        worst=worst,
        best=others[: -NUM_SHOWN - 1 : -1],
    )


def average_scores(answers: Sequence[Answer]) -> dict[str, float]:
    """Return the mean of each score, over the answers that have it."""
    names = dict.fromkeys(name for answer in answers for name in answer.scores)
    return {
        name: average([answer.scores[name] for answer in answers if name in answer.scores])
        for name in names
    }


def average(values: Sequence[float]) -> float:
    """Return the mean."""
    return math.fsum(values) / len(values)


def _rank(answer: Answer) -> list[float]:
    return list(answer.scores.values())[:NUM_RANKING_SCORES]
