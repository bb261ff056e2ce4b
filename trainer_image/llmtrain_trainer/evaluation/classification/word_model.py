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
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import Pipeline, make_pipeline

from llmtrain_trainer.dataset.facts import Facts
from llmtrain_trainer.evaluation.classification.labelled_texts import LabelledTexts
from llmtrain_trainer.evaluation.classification.predictions import Predictions

MAX_WORDS = 50_000
"""Words and pairs of them that are known, the commonest."""

INVERSE_PENALTY = 10.0
"""C of logistic regression: the error on the texts counts so much against the squared weights."""

NUM_PASSES = 10
NUM_UPDATES = 20_000
"""What is learned is gone through at least so many times, and until there were so many updates."""

MIN_TEXTS = 5
"""That have a word which is shown."""


def make_word_model(num_texts: int) -> Pipeline:
    """Return the classifier for so many texts; the same ones always give the same weights."""
    model: Pipeline = make_pipeline(make_word_weights(), make_regression(num_texts))
    return model


def make_word_weights() -> TfidfVectorizer:
    """Return what makes weights of words and pairs of words of texts."""
    return TfidfVectorizer(
        token_pattern=r"\w+", ngram_range=(1, 2), sublinear_tf=True, max_features=MAX_WORDS
    )


def make_regression(num_texts: int) -> SGDClassifier:
    """Return logistic regression for so many texts: each label against all others, by SGD.

    With 77 labels that takes seconds where a solver of all labels together took many minutes.
    """
    return SGDClassifier(
        loss="log_loss",
        alpha=1.0 / (INVERSE_PENALTY * num_texts),
        max_iter=max(NUM_PASSES, NUM_UPDATES // num_texts),
        tol=None,
        random_state=0,
    )


def predict_by_words(train: LabelledTexts, held_out: LabelledTexts) -> Predictions | None:
    """Return what the classifier says of held-out documents, having learned those of `train`.

    None where it cannot learn: one label only, or no words.
    """
    probabilities = fit_and_predict(
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
        said = fit_and_predict(
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


def fit_and_predict(
    texts: Sequence[str],
    true: NDArray[np.int64],
    asked: Sequence[str],
    *,
    num_labels: int,
) -> NDArray[np.float64] | None:
    """Return how probable each label is for the texts that are asked [asked, labels].

    None where the classifier cannot learn: one label only, or no words.

    Args:
        texts: to learn.
        true: the number of the label of each.
        asked: of whose labels is asked.
        num_labels: how many there are.
    """
    if len(np.unique(true)) < 2 or not len(asked):
        return None
    model = make_word_model(len(texts))
    try:
        model.fit(texts, true)
    except ValueError as error:
        if "empty vocabulary" in str(error):
            return None
        raise
    probabilities = np.zeros((len(asked), num_labels))
    probabilities[:, model.classes_] = model.predict_proba(asked)
    return probabilities


def list_telling_words(
    texts: Sequence[str], is_second: NDArray[np.int64], most: int
) -> tuple[list[str], list[str]]:
    """Return the words by which texts of two kinds are told apart, those of each kind.

    Words that few texts have are left out: they say little, and may be names.

    Args:
        texts: of both kinds.
        is_second: 1 for those of the second kind, else 0.
        most: words of each kind that are returned.
    """
    weights = TfidfVectorizer(token_pattern=r"\w+", min_df=MIN_TEXTS, sublinear_tf=True)
    try:
        features = weights.fit_transform(texts)
    except ValueError:  # no word is in so many of them
        return [], []
    model = make_regression(len(texts)).fit(features, is_second)
    strength, words = model.coef_[0], weights.get_feature_names_out()
    order = np.argsort(strength, kind="stable")
    first = [str(words[i]) for i in order[:most] if strength[i] < 0]
    second = [str(words[i]) for i in order[::-1][:most] if strength[i] > 0]
    return first, second


def _make_predictions(texts: LabelledTexts, probabilities: NDArray[np.float64]) -> Predictions:
    return Predictions(
        labels=texts.labels,
        true=texts.true,
        probabilities=probabilities,
        facts=texts.facts,
        lengths=texts.lengths,
    )
