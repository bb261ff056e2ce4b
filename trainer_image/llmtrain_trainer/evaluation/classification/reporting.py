"""From the probabilities that a classifier gives to the report on it.

Below: the modules about labels beside it, of which some import scikit-learn. Above: `evaluate`,
for classifiers alone.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from llmtrain_api.findings import FINDINGS, Findings, Part
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
from llmtrain_trainer.evaluation.error_analysis.explaining import explain_errors
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
    others: Mapping[Part, tuple[int, int]],
    tokenizer: PreTrainedTokenizerBase,
    store: Store,
) -> ClassReport:
    """Return how well the documents of a split are classified, and why not better.

    What was said of each document and what was found out are written beside the report.

    Args:
        config: of the run.
        dataset: whose documents have labels.
        held_out: the split.
        probabilities: what the model says of each document [documents, labels].
        others: of the other parts: how many documents were looked at, and on how many it errs.
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
    chosen = choose_sequences(dataset.train.num_documents, MAX_LEARNED)
    learned = read_labelled_texts(dataset.train, dataset.labels, tokenizer, chosen)
    part = Part(config.evaluation.split.value)
    explanation = explain_errors(
        predictions,
        texts,
        learned,
        {**others, part: (len(predictions), int((~predictions.is_right).sum()))},
        part=part,
        num_sources=len(config.data.sources),
        seed=config.training.seed,
    )
    with tempfile.TemporaryDirectory(prefix="llmtrain-predictions-") as name:
        path = Path(name) / "predictions"
        write_predictions(predictions, path)
        store.upload(PREDICTIONS, path)
    findings = Findings(
        run=config.run_uri, dataset=dataset.fingerprint, findings=[*explanation.findings]
    )
    text = json.dumps(findings.dump(), indent=1, ensure_ascii=False)
    store.write_bytes(FINDINGS, text.encode())
    by_words = predict_by_words(learned, texts)
    metrics = {
        **compute_metrics(predictions),
        "majority.accuracy": measure_majority(predictions, dataset.train.labels),
    }
    if by_words is not None:
        metrics |= {f"tfidf.{name}": value for name, value in compute_metrics(by_words).items()}
    return ClassReport(
        labels=predictions.labels,
        metrics=metrics,
        intervals=estimate_intervals(predictions.confusion, seed=config.training.seed),
        scores=score_labels(predictions),
        confusion=predictions.confusion,
        calibration=measure_calibration(predictions.confidence, predictions.is_right),
        explanation=explanation,
    )


def measure_majority(predictions: Predictions, trained: Sequence[str]) -> float:
    """Return the accuracy of always saying the label that is the commonest in training.

    Args:
        predictions: of held-out documents.
        trained: the label of each training document.
    """
    commonest = int(count_classes(trained, predictions.labels).argmax())
    return float((predictions.true == commonest).mean())
