"""How groups of people are mentioned in a sample, and which words stand near them.

Below: `terms`. Above: `publishing`.

A word is said to go with a group where it stands near the group's terms more often than near those
of the other groups of its dimension: by the log-odds ratio with an informative Dirichlet prior, as
Monroe, Colaresi and Quinn 2008 (Fightin' Words, section 3.5.1), at a z-score of at least 1.96.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from llmtrain_trainer.data_report.record import GroupRecord, GroupWord
from llmtrain_trainer.data_report.terms import FUNCTION_WORDS, TERMS

WINDOW_WORDS = 10
"""Words on each side of a term that count as near it."""

MIN_COUNT = 5
"""Rarer words are left out: they say little, and may be names."""

MIN_CHARACTERS = 3

MIN_SCORE = 1.96
"""Two-sided 5 % of the normal distribution. Of many words some will pass by chance."""

SHOWN_WORDS = 8

PRIOR_WORDS = 500.0
"""Weight of the prior: as if each group had so many more words of the dimension's mix."""

MIN_REST = 1e-6

WORD = re.compile(r"[^\W\d_]+")

Lists = Mapping[str, Mapping[str, frozenset[str]]]


def describe_groups(texts: Iterable[str], lists: Lists = TERMS) -> list[GroupRecord]:
    """Return how each group is mentioned, those of a dimension one after the other.

    Args:
        texts: the sample.
        lists: terms in small letters, by dimension and group.
    """
    group_of = {
        term: (dimension, group)
        for dimension, groups in lists.items()
        for group, terms in groups.items()
        for term in terms
    }
    documents: Counter[tuple[str, str]] = Counter()
    mentions: Counter[tuple[str, str]] = Counter()
    near: dict[tuple[str, str], Counter[str]] = {key: Counter() for key in group_of.values()}
    for text in texts:
        words = WORD.findall(text.lower())
        found = [(place, group_of[word]) for place, word in enumerate(words) if word in group_of]
        documents.update({key for _, key in found})
        for place, key in found:
            mentions[key] += 1
            window = words[max(0, place - WINDOW_WORDS) : place + WINDOW_WORDS + 1]
            near[key].update(
                word
                for word in window
                if len(word) >= MIN_CHARACTERS
                and word not in group_of
                and word not in FUNCTION_WORDS
            )
    return [
        GroupRecord(
            dimension=dimension,
            group=group,
            documents=documents[dimension, group],
            mentions=mentions[dimension, group],
            words=choose_words(
                near[dimension, group],
                [near[dimension, other] for other in groups if other != group],
            ),
        )
        for dimension, groups in lists.items()
        for group in groups
    ]


def choose_words(near: Counter[str], near_others: list[Counter[str]]) -> list[GroupWord]:
    """Return the words that go with a group, the clearest first.

    Args:
        near: counts of the words near its terms.
        near_others: the same for each other group of its dimension.
    """
    others: Counter[str] = Counter()
    for counts in near_others:
        others.update(counts)
    scores = score_words(near, others)
    chosen = sorted(
        (word for word, score in scores.items() if near[word] >= MIN_COUNT and score >= MIN_SCORE),
        key=lambda word: (-scores[word], word),
    )
    return [
        GroupWord(word=word, count=near[word], score=round(scores[word], 2))
        for word in chosen[:SHOWN_WORDS]
    ]


def score_words(near: Counter[str], others: Counter[str]) -> dict[str, float]:
    """Return the z-score of each word near a group against the others; none without others."""
    total, total_others = near.total(), others.total()
    if total == 0 or total_others == 0:
        return {}
    scores = {}
    for word, count in near.items():
        prior = PRIOR_WORDS * (count + others[word]) / (total + total_others)
        here, there = count + prior, others[word] + prior
        rest, rest_there = total + PRIOR_WORDS - here, total_others + PRIOR_WORDS - there
        if min(rest, rest_there) < MIN_REST:
            continue  # the only word on one side has no odds
        odds, odds_there = math.log(here / rest), math.log(there / rest_there)
        scores[word] = (odds - odds_there) / math.sqrt(1.0 / here + 1.0 / there)
    return scores
