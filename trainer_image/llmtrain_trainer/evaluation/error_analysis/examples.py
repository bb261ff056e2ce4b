"""The wrong predictions that are worth reading, and groups of them that have words in common.

Below: `predictions`, scikit-learn, the word scores of `data_report`. Above: `explaining`.

The most confident wrong ones are wrong labels, or something that the model misunderstands; the
hardest ones are those of whose label the model has the least idea. Errors are grouped by k-means of
their TF-IDF weights (Lloyd 1982); the words of a group are those that it has more often than the
documents that are classified rightly, by the log-odds ratio of `data_report.groups`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import TfidfVectorizer
from threadpoolctl import threadpool_limits

from llmtrain_trainer.data_report.groups import WORD, choose_words
from llmtrain_trainer.data_report.terms import FUNCTION_WORDS
from llmtrain_trainer.evaluation.classification.predictions import Predictions

NUM_SHOWN = 5
EXCERPT_CHARACTERS = 300

ERRORS_OF_A_GROUP = 15
"""On average; fewer errors make no groups."""

MAX_GROUPS = 6
MIN_WORD_CHARACTERS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongExample:
    """A document that is classified wrongly."""

    document: str
    """Its digest."""

    text: str
    """Its beginning, personal data replaced."""

    label: str
    predicted: str
    label_probability: float
    predicted_probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGroup:
    """Wrongly classified documents that are alike."""

    documents: int
    words: Sequence[str]
    """That they have more often than those that are classified rightly."""

    example: str
    """The beginning of the one nearest to their middle."""


def choose_examples(
    predictions: Predictions, texts: Sequence[str]
) -> tuple[list[WrongExample], list[WrongExample]]:
    """Return the most confident wrong predictions, and the documents that are hardest.

    Args:
        predictions: of the documents.
        texts: of the same, personal data replaced.
    """
    wrong = np.flatnonzero(~predictions.is_right)
    own = predictions.probabilities[np.arange(len(predictions)), predictions.true]
    by_confidence = wrong[np.argsort(-predictions.confidence[wrong], kind="stable")]
    by_hardness = wrong[np.argsort(own[wrong], kind="stable")]
    confident = by_confidence[:NUM_SHOWN].tolist()
    hardest = [number for number in by_hardness.tolist() if number not in confident][:NUM_SHOWN]
    return (
        [_describe(predictions, texts, number) for number in confident],
        [_describe(predictions, texts, number) for number in hardest],
    )


def group_errors(predictions: Predictions, texts: Sequence[str], *, seed: int) -> list[ErrorGroup]:
    """Return groups of wrongly classified documents with words of their own, the largest first.

    Args:
        predictions: of the documents.
        texts: of the same, personal data replaced.
        seed: of where k-means begins.
    """
    wrong = np.flatnonzero(~predictions.is_right).tolist()
    num_groups = min(MAX_GROUPS, len(wrong) // ERRORS_OF_A_GROUP)
    if num_groups < 2:
        return []
    vectorizer = TfidfVectorizer(stop_words=sorted(FUNCTION_WORDS), min_df=2, sublinear_tf=True)
    try:
        weights = vectorizer.fit_transform([texts[number] for number in wrong])
    except ValueError:  # no word is in two of them
        return []
    with threadpool_limits(limits=1):  # sums in another order make other groups
        means = KMeans(num_groups, n_init=3, random_state=seed).fit(weights)
        distances = means.transform(weights)
    right_words: Counter[str] = Counter()
    for number in np.flatnonzero(predictions.is_right).tolist():
        right_words.update(list_words(texts[number]))
    groups = []
    for group in range(num_groups):
        members = np.flatnonzero(means.labels_ == group)
        words: Counter[str] = Counter()
        for member in members.tolist():
            words.update(list_words(texts[wrong[member]]))
        typical = [item.word for item in choose_words(words, [right_words])]
        nearest = wrong[members[distances[members, group].argmin()]]
        if typical:
            groups.append(
                ErrorGroup(documents=len(members), words=typical, example=shorten(texts[nearest]))
            )
    return sorted(groups, key=lambda item: -item.documents)


def list_words(text: str) -> list[str]:
    """Return the words of a text that say something, in small letters."""
    words = WORD.findall(text.lower())
    return [w for w in words if len(w) >= MIN_WORD_CHARACTERS and w not in FUNCTION_WORDS]


def shorten(text: str) -> str:
    """Return the beginning of a text."""
    one_line = " ".join(text.split())
    if len(one_line) <= EXCERPT_CHARACTERS:
        return one_line
    return one_line[:EXCERPT_CHARACTERS].rstrip() + " …"


def _describe(predictions: Predictions, texts: Sequence[str], number: int) -> WrongExample:
    true, said = int(predictions.true[number]), int(predictions.predicted[number])
    return WrongExample(
        document=predictions.facts[number].digest,
        text=shorten(texts[number]),
        label=predictions.labels[true],
        predicted=predictions.labels[said],
        label_probability=float(predictions.probabilities[number, true]),
        predicted_probability=float(predictions.probabilities[number, said]),
    )
