"""What all ranks find out of a model together: they measure it and ask it, each its share.

Below: `measure`, `breakdown`, `asking`. Above: `evaluate`, and `checkpoints`
for other weights of the run; `reporting` makes a report of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from llmtrain_api.findings import Part
from llmtrain_api.objective import Objective as Kind
from llmtrain_api.run import RunConfig
from llmtrain_trainer.dataset.loading import Dataset, Split
from llmtrain_trainer.evaluation.asking import Answered, Asking, Scored
from llmtrain_trainer.evaluation.breakdown import Tally
from llmtrain_trainer.evaluation.measure import Measurement, choose_sequences, measure
from llmtrain_trainer.objective.batch import Objective, count_samples
from llmtrain_trainer.parallel import Ranks

MAX_COMPARED = 2000
"""Documents of the other parts that are classified, to see where errors rise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is evaluated, and by what."""

    model: Any  # `generate` has no type that the library's own models satisfy
    tokenizer: PreTrainedTokenizerBase
    dataset: Dataset
    held_out: Split
    objective: Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What all ranks found out together."""

    measured: Measurement
    """On all held-out text."""

    errors: Mapping[Part, tuple[int, int]]
    """Of some documents of the other parts, where they are classified: how many there were, and
    how many of them were taken for something else."""

    asked: Sequence[Answered | Scored | None]
    """Of each suite."""

    sums: tuple[NDArray[np.int64], NDArray[np.int64]] | None
    """Of a causal model: losses by place and by document, as `Tally` sums them up."""


def examine(config: RunConfig, subject: Subject, ranks: Ranks) -> Findings:
    """Measure the model and ask it, each rank its share; every rank must call it.

    Raises:
        DataError: where a suite cannot be read.
    """
    dataset = subject.dataset
    tally = None
    if config.objective is Kind.CAUSAL:
        tally = Tally(subject.held_out, config.training.sequence_length, ranks)
    measured = measure_split(config, subject, subject.held_out, ranks, tally=tally)
    errors = {}
    if measured.probabilities is not None and not config.data.has_label_sets:
        errors = {
            part: count_errors(measure_split(config, subject, split, ranks, most=MAX_COMPARED))
            for part, split in ((Part.TRAIN, dataset.train), (Part.VALIDATION, dataset.validation))
            if split is not subject.held_out
        }
    asked = ask_suites(config, subject, ranks, key="suite")
    sums = None if tally is None else tally.sum_up()
    return Findings(measured=measured, errors=errors, asked=asked, sums=sums)


def measure_split(
    config: RunConfig,
    subject: Subject,
    split: Split,
    ranks: Ranks,
    *,
    most: int | None = None,
    tally: Tally | None = None,
) -> Measurement:
    """Measure the model on a part of the data, on `most` samples of it or all; as `measure`."""
    objective, sequence_length = subject.objective, config.training.sequence_length
    available = count_samples(objective, split, sequence_length)
    return measure(
        subject.model,
        objective,
        split,
        choose_sequences(available, available if most is None else most),
        ranks,
        sequence_length=sequence_length,
        batch_size=config.training.micro_batch_size or config.training.global_batch,
        logits_bytes=config.training.find_logits_bytes(on_gpu=ranks.device.type == "cuda"),
        num_classes=len(subject.dataset.labels) if objective.reads_documents else 0,
        tally=tally,
    )


def ask_suites(
    config: RunConfig, subject: Subject, ranks: Ranks, *, key: str
) -> list[Answered | Scored | None]:
    """Ask all suites of the spec; every rank must call it, with a `key` for each model."""
    asking = Asking(
        config,
        subject.model,
        subject.tokenizer,
        ranks,
        end_of_text=subject.dataset.end_of_text,
        key=key,
    )
    return [asking.ask(suite, i) for i, suite in enumerate(config.evaluation.suites)]


def count_errors(measured: Measurement) -> tuple[int, int]:
    """Return how many documents were classified, and how many of them wrongly."""
    right = round(measured.accuracy * measured.num_targets)
    return measured.num_targets, measured.num_targets - right
