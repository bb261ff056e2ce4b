"""The metrics of one model, by the names that gates use.

Below: `measure`, `losses`, `suites`, `classification`. Above: `reporting` for the exported model,
`checkpoints` for other weights of the run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from llmtrain_api.run import RunConfig
from llmtrain_api.suites import HEADLINES
from llmtrain_trainer.dataset.loading import Dataset, Split
from llmtrain_trainer.evaluation.answers import SuiteResult
from llmtrain_trainer.evaluation.examining import Subject
from llmtrain_trainer.evaluation.losses import describe_loss
from llmtrain_trainer.evaluation.measure import Measurement
from llmtrain_trainer.evaluation.verdict import Metrics, clean_metrics


def name_metrics(
    config: RunConfig,
    subject: Subject,
    measured: Measurement,
    of_labels: Metrics,
    suites: Sequence[SuiteResult],
) -> dict[str, float | None]:
    """Return what was measured by its names; None: it is no number.

    Args:
        config: of the run.
        subject: which was measured.
        measured: on its held-out text.
        of_labels: where documents are classified; else nothing.
        suites: what came of each.
    """
    of_suites = {
        f"{result.suite.name}.{name}": value
        for result in suites
        for name, value in result.metrics.items()
    }
    return clean_metrics(
        {
            **describe_loss(measured.loss, find_predicted_text(config, subject)),
            "accuracy": measured.accuracy,
            **of_labels,
            **of_suites,
        }
    )


def find_predicted_text(config: RunConfig, subject: Subject) -> Split | None:
    """Return the held-out text where all of it is predicted, so that its bytes can be counted."""
    is_whole = subject.objective.fixed_targets == config.training.sequence_length
    return subject.held_out if is_whole else None


def measure_labels(
    config: RunConfig, dataset: Dataset, held_out: Split, probabilities: NDArray[np.float64]
) -> Metrics:
    """Return how well the documents of a split are classified.

    Args:
        config: of the run.
        dataset: whose documents have labels.
        held_out: the split.
        probabilities: what a model says of each document [documents, labels].
    """
    # Seconds for scikit-learn, which nothing else here needs.
    if config.data.has_label_sets:
        from llmtrain_trainer.evaluation.classification.label_sets import compute_set_metrics
        from llmtrain_trainer.evaluation.classification.set_reporting import describe_sets

        return compute_set_metrics(describe_sets(dataset, held_out, probabilities))
    from llmtrain_trainer.evaluation.classification.metrics import compute_metrics
    from llmtrain_trainer.evaluation.classification.predictions import Predictions

    facts = held_out.read_facts()
    predictions = Predictions(
        labels=tuple(dataset.labels),
        true=np.searchsorted(list(dataset.labels), [item.label for item in facts]),
        probabilities=probabilities,
        facts=facts,
        lengths=held_out.document_lengths,
    )
    return compute_metrics(predictions)


def pick_headlines(suites: Sequence[SuiteResult]) -> dict[str, float]:
    """Return the metrics of suites that the status has, as far as they were measured."""
    return {
        f"{result.suite.name}.{name}": value
        for result in suites
        for name in HEADLINES[result.suite.kind]
        if (value := result.metrics.get(name)) is not None and math.isfinite(value)
    }


def pick_numbers(metrics: Mapping[str, float | None], names: Sequence[str]) -> dict[str, float]:
    """Return those of the metrics that were measured and are numbers."""
    return {name: value for name in names if (value := metrics.get(name)) is not None}
