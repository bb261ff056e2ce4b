"""Whether held-out documents are like those that were learned.

Below: the model of words' features, scikit-learn, scipy. Above: `findings`.

Adversarial validation: a classifier is asked, out of fold, which part a document is of. Where the
parts are alike it can only guess, and the area under its curve (AUC) is about 0.5. How far from it
chance would take it is known of ranks (Mann and Whitney 1947); out of fold it is rather below 0.5
than above, so that this errs on the side of silence. The words with the greatest weight say what
gives a part away.

Beside it: the Jensen-Shannon distance of the words of both parts (square root of the divergence in
bits, 0 to 1; Endres and Schindelin 2003), against what it is where documents change parts by
chance, and the lengths of documents (Kolmogorov and Smirnov's test). A leak, held-out documents
that were learned, is found by their digests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.stats import ks_2samp, norm
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import roc_auc_score

from llmtrain_trainer.evaluation.classification.labelled_texts import LabelledTexts
from llmtrain_trainer.evaluation.classification.word_model import (
    fit_and_predict,
    list_telling_words,
)

LEVEL = 0.01
"""Of each of the three tests, so that all together are silent without a shift in 97 of 100 runs."""

MIN_AUC = 0.55
"""Of many documents, less can be significant and still mean nothing."""

MIN_DOCUMENTS = 50
"""In each part; of fewer nothing is said."""

MAX_DOCUMENTS = 4000
"""Of each part that are looked at."""

NUM_FOLDS = 5
NUM_PERMUTATIONS = 99
"""The least p-value that they can give is 0.01."""

SHOWN_WORDS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """How two parts of the data differ."""

    auc: float
    """Of telling them apart by words, out of fold; 0.5: not at all."""

    auc_p_value: float
    learned_words: Sequence[str]
    """That tell documents of the training part."""

    held_out_words: Sequence[str]
    """That tell held-out documents."""

    word_distance: float
    """Jensen-Shannon distance of their words, 0 to 1."""

    chance_distance: float
    """Its mean where documents change parts by chance."""

    word_p_value: float
    learned_length: float
    """Median tokens of a training document."""

    held_out_length: float
    length_p_value: float

    leaked: Sequence[str]
    """Digests of held-out documents that are among the training documents."""

    @property
    def tells_apart(self) -> bool:
        """Whether the parts can be told apart by words."""
        return self.auc >= MIN_AUC and self.auc_p_value <= LEVEL

    @property
    def has_other_words(self) -> bool:
        """Whether words occur more or less often than by chance."""
        return self.word_p_value <= LEVEL

    @property
    def has_other_lengths(self) -> bool:
        """Whether documents are longer or shorter than by chance."""
        return self.length_p_value <= LEVEL

    @property
    def is_shifted(self) -> bool:
        """Whether anything of it is significant."""
        return self.tells_apart or self.has_other_words or self.has_other_lengths


def compare_parts(learned: LabelledTexts, held_out: LabelledTexts, *, seed: int) -> Mismatch | None:
    """Return how held-out documents differ from those that were learned.

    None where there are too few of them, or where they have no words.

    Args:
        learned: of the training part, copies included.
        held_out: of the other part.
        seed: of the folds and of what chance does.
    """
    digests = {facts.digest for facts in learned.facts if facts.digest}
    leaked = [facts.digest for facts in held_out.facts if facts.digest in digests]
    first, second = _choose(learned), _choose(held_out)
    if min(len(first), len(second)) < MIN_DOCUMENTS:
        return None
    texts = [learned.texts[i] for i in first] + [held_out.texts[i] for i in second]
    is_held_out = np.repeat([0, 1], [len(first), len(second)])
    random = np.random.default_rng(seed)
    scores = _score_out_of_fold(texts, is_held_out, random)
    if scores is None:
        return None
    auc = float(roc_auc_score(is_held_out, scores))
    learned_words, held_out_words = list_telling_words(texts, is_held_out, SHOWN_WORDS)
    counts = CountVectorizer(token_pattern=r"\w+").fit_transform(texts)
    distance, chance, word_p_value = compare_words(counts, is_held_out == 1, random)
    lengths = learned.lengths[first], held_out.lengths[second]
    return Mismatch(
        auc=auc,
        auc_p_value=compute_auc_p_value(auc, len(first), len(second)),
        learned_words=learned_words,
        held_out_words=held_out_words,
        word_distance=distance,
        chance_distance=chance,
        word_p_value=word_p_value,
        learned_length=float(np.median(lengths[0])),
        held_out_length=float(np.median(lengths[1])),
        length_p_value=float(ks_2samp(*lengths).pvalue),
        leaked=leaked,
    )


def compute_auc_p_value(auc: float, first: int, second: int) -> float:
    """Return how probable such an AUC or a greater one is of ranks that say nothing."""
    deviation = math.sqrt((first + second + 1) / (12.0 * first * second))
    return float(norm.sf((auc - 0.5) / deviation))


def compare_words(
    counts: csr_matrix, is_held_out: NDArray[np.bool_], random: np.random.Generator
) -> tuple[float, float, float]:
    """Return the distance of words, its mean by chance, and how probable it is by chance.

    Args:
        counts: of each word in each document [documents, words].
        is_held_out: which part each document is of [documents].
        random: draws which documents change parts.
    """
    total = np.asarray(counts.sum(axis=0)).ravel()
    distance = _measure_distance(counts, total, is_held_out)
    by_chance = [
        _measure_distance(counts, total, random.permutation(is_held_out))
        for _ in range(NUM_PERMUTATIONS)
    ]
    as_far = sum(other >= distance for other in by_chance)
    return distance, float(np.mean(by_chance)), (1 + as_far) / (1 + NUM_PERMUTATIONS)


def compute_distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the Jensen-Shannon distance of two distributions, to base 2: 0 to 1."""
    middle = (first + second) / 2.0
    divergence = (_entropy(middle) - (_entropy(first) + _entropy(second)) / 2.0) / math.log(2.0)
    return math.sqrt(max(0.0, divergence))


def _measure_distance(
    counts: csr_matrix, total: NDArray[np.int64], inside: NDArray[np.bool_]
) -> float:
    part = inside.astype(np.int64) @ counts
    rest = total - part
    return compute_distance(part / max(1, part.sum()), rest / max(1, rest.sum()))


def _entropy(shares: NDArray[np.float64]) -> float:
    present = shares[shares > 0.0]
    return float(-(present * np.log(present)).sum())


def _choose(texts: LabelledTexts) -> list[int]:
    """Return the numbers of documents, evenly over all, each digest once."""
    seen: set[str] = set()
    unique = []
    for number, facts in enumerate(texts.facts):
        if facts.digest not in seen:
            unique.append(number)
        if facts.digest:
            seen.add(facts.digest)
    count = min(len(unique), MAX_DOCUMENTS)
    return [unique[place * len(unique) // count] for place in range(count)]


def _score_out_of_fold(
    texts: Sequence[str], is_held_out: NDArray[np.int64], random: np.random.Generator
) -> NDArray[np.float64] | None:
    """Return how probably each document is held out, by a model that has not seen it."""
    folds = random.permutation(len(texts)) % NUM_FOLDS
    scores = np.zeros(len(texts))
    for fold in range(NUM_FOLDS):
        inside, outside = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        said = fit_and_predict(
            [texts[i] for i in outside.tolist()],
            is_held_out[outside],
            [texts[i] for i in inside.tolist()],
            num_labels=2,
        )
        if said is None:
            return None
        scores[inside] = said[:, 1]
    return scores
