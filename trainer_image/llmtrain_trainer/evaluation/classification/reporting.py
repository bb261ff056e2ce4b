"""From the probabilities that a classifier gives to the report on it.

Below: the modules about labels beside it, of which some import scikit-learn. Above: `evaluate`,
for classifiers alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from llmtrain_api.run import RunConfig
from llmtrain_trainer.dataset.loading import Dataset, Split
from llmtrain_trainer.evaluation.classification.calibration import measure_calibration
from llmtrain_trainer.evaluation.classification.intervals import estimate_intervals
from llmtrain_trainer.evaluation.classification.labelled_texts import read_labelled_texts
from llmtrain_trainer.evaluation.classification.metrics import compute_metrics, score_labels
from llmtrain_trainer.evaluation.classification.predictions import (
    PREDICTIONS,
    Predictions,
    write_predictions,
)
from llmtrain_trainer.evaluation.classification.record import ClassReport
from llmtrain_trainer.evaluation.classification.word_model import predict_by_words
from llmtrain_trainer.evaluation.measure import choose_sequences
from llmtrain_trainer.objective.classes import count_classes
from llmtrain_trainer.store import Store

MAX_LEARNED = 20_000
"""Training documents that the model of words learns from, evenly over all of them."""


def report_classification(
    config: RunConfig,
    dataset: Dataset,
    held_out: Split,
    probabilities: NDArray[np.float64],
    tokenizer: PreTrainedTokenizerBase,
    store: Store,
) -> ClassReport:
    """Return how well the documents of a split are classified, and write what was said of each.

    Args:
        config: of the run.
        dataset: whose documents have labels.
        held_out: the split.
        probabilities: what the model says of each document [documents, labels].
        tokenizer: of the export.
        store: rooted at the run.

    Raises:
        StoreError: where the store fails.
    """
    everything = np.arange(held_out.num_documents)
    texts = read_labelled_texts(held_out, dataset.labels, tokenizer, everything)
    predictions = Predictions(
        labels=texts.labels,
        true=texts.true,
        probabilities=probabilities,
        facts=texts.facts,
        lengths=texts.lengths,
    )
    with tempfile.TemporaryDirectory(prefix="llmtrain-predictions-") as name:
        path = Path(name) / "predictions"
        write_predictions(predictions, path)
        store.upload(PREDICTIONS, path)
    learned = choose_sequences(dataset.train.num_documents, MAX_LEARNED)
    train = read_labelled_texts(dataset.train, dataset.labels, tokenizer, learned)
    return describe_classification(
        predictions,
        predict_by_words(train, texts),
        dataset.train.labels,
        seed=config.training.seed,
    )


def describe_classification(
    predictions: Predictions, by_words: Predictions | None, trained: Sequence[str], *, seed: int
) -> ClassReport:
    """Return how well a model predicts labels, and how well it could be done without it.

    Args:
        predictions: of the model, for held-out documents.
        by_words: of logistic regression on words for the same ones; None: it could not learn.
        trained: the label of each training document.
        seed: of what is drawn for the intervals.
    """
    commonest = int(count_classes(trained, predictions.labels).argmax())
    metrics = {
        **compute_metrics(predictions),
        "majority.accuracy": float((predictions.true == commonest).mean()),
    }
    if by_words is not None:
        metrics |= {f"tfidf.{name}": value for name, value in compute_metrics(by_words).items()}
    return ClassReport(
        labels=predictions.labels,
        metrics=metrics,
        intervals=estimate_intervals(predictions.confusion, seed=seed),
        scores=score_labels(predictions),
        confusion=predictions.confusion,
        calibration=measure_calibration(predictions),
    )
