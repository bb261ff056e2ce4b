"""From what was found out of a model to the report on it, with what one rank does alone.

Below: `examining`, `classification`, `metrics`, `checkpoints`, `breakdown`, `samples`, `verdict`.
Above: `evaluate`, on rank 0; `report` draws it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from llmtrain_api.run import RunConfig
from llmtrain_trainer.checkpoint.manifest import CURVES, PACE
from llmtrain_trainer.evaluation.breakdown import describe_places, describe_slices
from llmtrain_trainer.evaluation.checkpoints import ExaminedCheckpoints, judge_checkpoints
from llmtrain_trainer.evaluation.examining import Findings, Subject
from llmtrain_trainer.evaluation.losses import compute_baseline_loss, describe_loss
from llmtrain_trainer.evaluation.metrics import find_predicted_text, name_metrics
from llmtrain_trainer.evaluation.report import Report
from llmtrain_trainer.evaluation.samples import write_samples
from llmtrain_trainer.evaluation.suites import judge_suites
from llmtrain_trainer.evaluation.verdict import (
    clean_metrics,
    judge_gates,
)
from llmtrain_trainer.model.blueprint import describe_shape
from llmtrain_trainer.model.network import count_parameters
from llmtrain_trainer.store import Store

if TYPE_CHECKING:  # they bring scikit-learn, which only classifiers need
    from llmtrain_trainer.evaluation.classification.record import ClassReport
    from llmtrain_trainer.evaluation.classification.set_reporting import LabelSetReport


def make_report(
    config: RunConfig,
    store: Store,
    subject: Subject,
    found: Findings,
    baseline: Mapping[str, float | None],
    examined: ExaminedCheckpoints,
) -> Report:
    """Make a report of what was found out, with what one rank does alone.

    Raises:
        ConfigurationError: where the encoder of a suite cannot be used.
        DataError: where the lexicon of a suite cannot be read.
        StoreError: where the store fails.
    """
    model, tokenizer, dataset = subject.model, subject.tokenizer, subject.dataset
    held_out, measured = subject.held_out, found.measured
    classes: ClassReport | LabelSetReport | None = None
    if measured.probabilities is not None and config.data.has_label_sets:
        from llmtrain_trainer.evaluation.classification.set_reporting import report_label_sets

        classes = report_label_sets(
            config, dataset, held_out, measured.probabilities, tokenizer, store
        )
    elif measured.probabilities is not None:
        # Seconds for scikit-learn, which nothing else here needs.
        from llmtrain_trainer.evaluation.classification.reporting import report_classification

        classes = report_classification(
            config, dataset, held_out, measured.probabilities, found.errors, tokenizer, store
        )
    suites = judge_suites(config, subject, found.asked)
    unigram_loss = compute_baseline_loss(config, dataset, held_out)
    text = find_predicted_text(config, subject)
    of_labels = {} if classes is None else classes.metrics
    named = name_metrics(config, subject, measured, of_labels, suites)
    metrics = {
        **named,
        **clean_metrics(describe_loss(unigram_loss, text, prefix="unigram.")),
    }
    curve = json.loads(store.read_bytes(CURVES))
    positions, slices = [], []
    if found.sums is not None:
        positions = describe_places(found.sums[0])
        slices = describe_slices(
            found.sums[1],
            held_out,
            [source.uri for source in config.data.sources],
            None if text is None else partial(count_bytes, tokenizer),
        )
    return Report(
        config=config,
        step=int(curve[-1]["step"]),
        parameters=count_parameters(model),
        validation_loss=measured.loss,
        perplexity=math.exp(measured.loss),
        accuracy=metrics["accuracy"] or 0.0,
        bits_per_byte=metrics.get("bits_per_byte"),
        unigram_loss=unigram_loss,
        held_out_tokens=measured.num_targets,
        metrics={**metrics, **baseline},
        gates=judge_gates(config.evaluation.gates, {**metrics, **baseline}),
        suites=suites,
        positions=positions,
        slices=slices,
        checkpoints=judge_checkpoints(config, subject, examined, named),
        classes=classes,
        curve=curve,
        pace=json.loads(store.read_bytes(PACE)) if store.find_object(PACE) else [],
        samples=write_samples(config, dataset, held_out, subject.objective, model, tokenizer),
        shape=describe_shape(model.config),
    )


def count_bytes(tokenizer: PreTrainedTokenizerBase, texts: Sequence[NDArray[np.int64]]) -> int:
    """Return how many bytes of UTF-8 texts have, given by their tokens."""
    decoded = tokenizer.batch_decode([text.tolist() for text in texts], skip_special_tokens=True)
    return sum(len(str(text).encode()) for text in decoded)
