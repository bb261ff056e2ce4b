"""From the probabilities of label sets to the report on them.

Below: `label_sets`, the model of words, `error_analysis.label_set_errors`. Above: `reporting`, for
classifiers whose documents have any number of labels each.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from llmtrain_api.findings import FINDINGS, Findings, Part
from llmtrain_api.run import RunConfig
from llmtrain_trainer.dataset.loading import Dataset, Split
from llmtrain_trainer.evaluation.classification.calibration import ReliabilityBin
from llmtrain_trainer.evaluation.classification.charts import draw_reliability
from llmtrain_trainer.evaluation.classification.intervals import Interval
from llmtrain_trainer.evaluation.classification.label_sets import (
    LabelSets,
    compute_set_metrics,
    estimate_set_intervals,
    score_set_labels,
    write_label_sets,
)
from llmtrain_trainer.evaluation.classification.labelled_texts import read_texts
from llmtrain_trainer.evaluation.classification.predictions import PREDICTIONS
from llmtrain_trainer.evaluation.classification.record import LabelScore
from llmtrain_trainer.evaluation.classification.reporting import MAX_LEARNED
from llmtrain_trainer.evaluation.classification.word_model import make_regression, make_word_weights
from llmtrain_trainer.evaluation.error_analysis.label_set_errors import (
    LabelledSets,
    SetExplanation,
    ask_out_of_fold,
    explain_set_errors,
)
from llmtrain_trainer.evaluation.measure import choose_sequences
from llmtrain_trainer.objective.classes import mark_labels
from llmtrain_trainer.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSetReport:
    """How well labels are predicted of which a document has any number."""

    metrics: Mapping[str, float | None]
    """By the names of gates, those of what the model is compared with, too."""

    intervals: Mapping[str, Interval]
    """Of the model's metrics, 95 %."""

    scores: Sequence[LabelScore]
    """Of each label, in their order."""

    calibration: Sequence[ReliabilityBin]
    explanation: SetExplanation

    @property
    def reliability_svg(self) -> str:
        """Whether labels are there as often as the model says."""
        return draw_reliability(self.calibration)

    def dump(self) -> dict[str, Any]:
        """Return JSON-ready camelCase data."""
        return {
            "labels": [score.dump() for score in self.scores],
            "intervals": {name: list(interval) for name, interval in self.intervals.items()},
            "calibration": [asdict(item) for item in self.calibration],
            "errors": self.explanation.dump(),
        }


def report_label_sets(
    config: RunConfig,
    dataset: Dataset,
    held_out: Split,
    probabilities: NDArray[np.float64],
    tokenizer: PreTrainedTokenizerBase,
    store: Store,
) -> LabelSetReport:
    """Return how well the labels of a split's documents are predicted.

    What was said of each document and what was found out are written beside the report.

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
    sets = describe_sets(dataset, held_out, probabilities)
    with tempfile.TemporaryDirectory(prefix="llmtrain-predictions-") as name:
        path = Path(name) / "predictions"
        write_label_sets(sets, held_out.read_facts(), path)
        store.upload(PREDICTIONS, path)
    chosen = choose_sequences(dataset.train.num_documents, MAX_LEARNED)
    learned = mark_labels([dataset.train.label_sets[i] for i in chosen], dataset.labels)
    metrics = {**compute_set_metrics(sets), "majority.accuracy": measure_commonest(sets, learned)}
    trained_texts = read_texts(dataset.train, tokenizer, chosen)
    texts = read_texts(held_out, tokenizer, np.arange(held_out.num_documents))
    by_words = predict_sets_by_words(trained_texts, learned.astype(np.bool_), texts)
    facts = dataset.train.read_facts()
    explanation = explain_set_errors(
        LabelledSets(
            sets=sets,
            texts=texts,
            facts=held_out.read_facts(),
            lengths=held_out.document_lengths,
        ),
        ask_out_of_fold(
            sets.labels,
            learned.astype(np.bool_),
            trained_texts,
            [facts[i] for i in chosen],
            dataset.train.document_lengths[chosen],
            predict_sets_by_words,
            seed=config.training.seed,
        ),
        part=Part(config.evaluation.split.value),
        num_sources=len(config.data.sources),
    )
    findings = Findings(
        run=config.run_uri, dataset=dataset.fingerprint, findings=[*explanation.findings]
    )
    store.write_bytes(FINDINGS, json.dumps(findings.dump(), indent=1, ensure_ascii=False).encode())
    if by_words is not None:
        said = LabelSets(labels=sets.labels, true=sets.true, probabilities=by_words)
        metrics |= {f"tfidf.{key}": value for key, value in compute_set_metrics(said).items()}
    return LabelSetReport(
        metrics=metrics,
        intervals=estimate_set_intervals(sets, seed=config.training.seed),
        scores=score_set_labels(sets),
        calibration=sets.calibration,
        explanation=explanation,
    )


def describe_sets(
    dataset: Dataset, held_out: Split, probabilities: NDArray[np.float64]
) -> LabelSets:
    """Return the documents of a split beside what a model says of them [documents, labels]."""
    return LabelSets(
        labels=tuple(dataset.labels),
        true=mark_labels(held_out.label_sets, dataset.labels).astype(np.bool_),
        probabilities=probabilities,
    )


def measure_commonest(sets: LabelSets, learned: NDArray[np.int64]) -> float:
    """Return the accuracy of always saying the set of labels that is the commonest in training.

    Args:
        sets: of held-out documents.
        learned: 1 where a training document has a label [documents, labels].
    """
    kinds, counts = np.unique(learned, axis=0, return_counts=True)
    return float((sets.true == kinds[counts.argmax()].astype(np.bool_)).all(axis=1).mean())


def predict_sets_by_words(
    texts: Sequence[str], true: NDArray[np.bool_], asked: Sequence[str]
) -> NDArray[np.float64] | None:
    """Return what a model of words says of texts [asked, labels]: each label by itself.

    None where there are no words. A label that all or none of the texts have is as probable as
    that.

    Args:
        texts: to learn.
        true: whether each has each label [texts, labels].
        asked: of whose labels is asked.
    """
    weights = make_word_weights()
    try:
        features = weights.fit_transform(texts)
    except ValueError as error:
        if "empty vocabulary" in str(error):
            return None
        raise
    read = weights.transform(asked)
    probabilities = np.empty((len(asked), true.shape[1]))
    for number in range(true.shape[1]):
        has_it = true[:, number]
        if has_it.all() or not has_it.any():
            probabilities[:, number] = has_it[0]
            continue
        model = make_regression(len(texts)).fit(features, has_it)
        probabilities[:, number] = model.predict_proba(read)[:, 1]
    return probabilities
