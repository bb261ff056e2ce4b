"""A cheap classifier of texts: logistic regression on the weights of words (TF-IDF).

Below: scikit-learn, `labelled_texts`. Above: `reporting` compares the trained model with it,
and `label_errors` asks it, out of fold, which labels are probably wrong.

It knows which words and pairs of words a text has, not their order, and learns in seconds. Words
are runs of letters and digits: of languages that put no space between words it sees little.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from llmtrain_trainer.dataset.facts import Facts
from llmtrain_trainer.evaluation.classification.labelled_texts import LabelledTexts
from llmtrain_trainer.evaluation.classification.predictions import Predictions

MAX_WORDS = 50_000
"""Words and pairs of them that are known, the commonest; the time of learning grows with it."""

INVERSE_PENALTY = 10.0
MAX_ITERATIONS = 200


def make_word_model() -> Pipeline:
    """Return the classifier, not yet fitted."""
    model: Pipeline = make_pipeline(
        TfidfVectorizer(
            token_pattern=r"\w+", ngram_range=(1, 2), sublinear_tf=True, max_features=MAX_WORDS
        ),
        LogisticRegression(C=INVERSE_PENALTY, max_iter=MAX_ITERATIONS),
    )
    return model


def predict_by_words(train: LabelledTexts, held_out: LabelledTexts) -> Predictions | None:
    """Return what the classifier says of held-out documents, having learned those of `train`.

    None where it cannot learn: one label only, or no words.
    """
    probabilities = _fit_and_predict(
        train.texts, train.true, held_out.texts, num_labels=len(train.labels)
    )
    return None if probabilities is None else _make_predictions(held_out, probabilities)


def predict_out_of_fold(texts: LabelledTexts, *, num_folds: int, seed: int) -> Predictions | None:
    """Return what the classifier says of each document, having learned those of the other folds.

    Copies of a document (of one digest) are in one fold, so that none is learned from a copy of
    itself. None where it cannot learn in some fold.

    Args:
        texts: the documents.
        num_folds: into how many parts they are divided.
        seed: of the division.
    """
    folds = divide_into_folds(texts.facts, texts.true, num_folds=num_folds, seed=seed)
    probabilities = np.zeros((len(texts), len(texts.labels)))
    for fold in range(num_folds):
        inside = np.flatnonzero(folds == fold)
        outside = np.flatnonzero(folds != fold)
        said = _fit_and_predict(
            [texts.texts[i] for i in outside.tolist()],
            texts.true[outside],
            [texts.texts[i] for i in inside.tolist()],
            num_labels=len(texts.labels),
        )
        if said is None:
            return None
        probabilities[inside] = said
    return _make_predictions(texts, probabilities)


def divide_into_folds(
    facts: Sequence[Facts], true: NDArray[np.int64], *, num_folds: int, seed: int
) -> NDArray[np.int64]:
    """Return the fold of each document [documents].

    Documents of each label are spread evenly; those of one digest go where the first of them goes.
    """
    order = np.random.default_rng(seed).permutation(len(true))
    order = order[np.argsort(true[order], kind="stable")]
    folds = np.empty(len(true), dtype=np.int64)
    folds[order] = np.arange(len(true)) % num_folds
    first: dict[str, int] = {}
    for index, item in enumerate(facts):
        if item.digest:
            folds[index] = folds[first.setdefault(item.digest, index)]
    return folds


def _fit_and_predict(
    texts: Sequence[str],
    true: NDArray[np.int64],
    asked: Sequence[str],
    *,
    num_labels: int,
) -> NDArray[np.float64] | None:
    if len(np.unique(true)) < 2 or not len(asked):
        return None
    model = make_word_model()
    try:
        model.fit(texts, true)
    except ValueError as error:
        if "empty vocabulary" in str(error):
            return None
        raise
    probabilities = np.zeros((len(asked), num_labels))
    probabilities[:, model.classes_] = model.predict_proba(asked)
    return probabilities


def _make_predictions(texts: LabelledTexts, probabilities: NDArray[np.float64]) -> Predictions:
    return Predictions(
        labels=texts.labels,
        true=texts.true,
        probabilities=probabilities,
        facts=texts.facts,
        lengths=texts.lengths,
    )
