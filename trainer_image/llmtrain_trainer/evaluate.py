"""The evaluation stage: how well the exported model predicts held-out text, and whether that does.

Below: `export` (the model as users get it, read back from the store by `transformers`),
`measure`, `asking`, `classification`, `samples`, `suites`, `verdict`, `report`. Above: the agent
calls `run_evaluate` in every rank.

All ranks measure and ask, each its share; then rank 0 alone makes a report of it.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from transformers import AutoTokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from llmtrain_api.evaluation import HeldOut
from llmtrain_api.findings import Part
from llmtrain_api.records import RankPhase, StageResult
from llmtrain_api.run import RunConfig
from llmtrain_api.suites import HEADLINES
from llmtrain_trainer.checkpoint.manifest import CURVES, PACE
from llmtrain_trainer.dataset.loading import Dataset, Split, open_run_dataset
from llmtrain_trainer.evaluation.answers import SuiteResult
from llmtrain_trainer.evaluation.asking import Answered, Asking, Scored
from llmtrain_trainer.evaluation.baseline import read_baseline
from llmtrain_trainer.evaluation.losses import compute_baseline_loss, describe_loss
from llmtrain_trainer.evaluation.measure import Measurement, choose_sequences, measure
from llmtrain_trainer.evaluation.report import Report, render_report
from llmtrain_trainer.evaluation.samples import write_samples
from llmtrain_trainer.evaluation.suites import Judging
from llmtrain_trainer.evaluation.verdict import (
    REPORT_DATA,
    clean_metrics,
    judge_gates,
    write_verdict,
)
from llmtrain_trainer.failures import StoreError
from llmtrain_trainer.model.blueprint import describe_shape
from llmtrain_trainer.model.export import download_export, load_export, locate_export
from llmtrain_trainer.model.network import ISOLATING, count_parameters
from llmtrain_trainer.objective.batch import Objective, count_samples
from llmtrain_trainer.objective.choosing import choose_objective
from llmtrain_trainer.parallel import Ranks, count_threads, join_ranks, place_model
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.store import Store, open_store
from llmtrain_trainer.training.micro_batch import read_micro_batch, settle_micro_batch

if TYPE_CHECKING:  # they bring scikit-learn, which only classifiers need
    from llmtrain_trainer.evaluation.classification.record import ClassReport
    from llmtrain_trainer.evaluation.classification.set_reporting import LabelSetReport

REPORT = "evaluation/report.html"

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

    asked: Sequence[Answered | Scored]
    """Of each suite."""


def run_evaluate(config: RunConfig, group: RankGroup, reporter: Reporter) -> StageResult:
    """Measure the exported model on all held-out text, judge it, and write the report.

    Every rank must call it; what rank 0 returns says it all.

    Raises:
        ConfigurationError: where there is nothing of what it is to be compared with.
        DataError: where a suite cannot be asked.
        StoreError: where the export or the data is missing or damaged.
    """
    reporter.enter(RankPhase.RESTORING)
    baseline = read_baseline(config)
    store = open_store(config.run_uri, config.storage)
    if config.training.auto_micro_batch:
        config = settle_micro_batch(config, read_micro_batch(store))
    threads = count_threads(config.threads_per_process, ranks_on_host=group.local_world_size)
    transformers.utils.logging.disable_progress_bar()
    with join_ranks(group, threads=threads) as ranks:
        subject = open_subject(config, store)
        place_model(subject.model, ranks.device).eval()
        reporter.enter(RankPhase.EVALUATING)
        found = examine(config, subject, ranks)
        reporter.report(validation_loss=found.measured.loss)
    if group.rank > 0:
        reporter.enter(RankPhase.FINISHED)
        return StageResult()
    report = make_report(config, store, subject, found, baseline)
    write_verdict(store, report.gates)
    store.write_bytes(REPORT_DATA, json.dumps(report.dump(), indent=1).encode())
    store.write_bytes(REPORT, render_report(report).encode())
    reporter.enter(RankPhase.FINISHED)
    return StageResult(
        validation_loss=report.validation_loss,
        unigram_loss=report.unigram_loss,
        perplexity=report.perplexity,
        accuracy=report.accuracy,
        f1_macro=report.metrics.get("f1_macro"),
        ece=report.metrics.get("ece"),
        bits_per_byte=report.bits_per_byte,
        suites=pick_headlines(report.suites) or None,
        gates=[gate.result for gate in report.gates] or None,
        export_uri=locate_export(config),
        report_uri=f"{config.run_uri}/{REPORT}",
    )


def open_subject(config: RunConfig, store: Store) -> Subject:
    """Load the exported model and the data.

    Raises:
        StoreError: where either is missing or damaged.
    """
    dataset = open_run_dataset(store, config)
    with tempfile.TemporaryDirectory(prefix="llmtrain-evaluate-") as name:
        download_export(store, Path(name))
        model = load_export(config, Path(name))
        tokenizer = AutoTokenizer.from_pretrained(name)
    isolates = model.config.model_type in ISOLATING
    return Subject(
        model=model,
        tokenizer=tokenizer,
        dataset=dataset,
        held_out=choose_split(dataset, config.evaluation.split),
        objective=choose_objective(config, dataset, isolates=isolates),
    )


def examine(config: RunConfig, subject: Subject, ranks: Ranks) -> Findings:
    """Measure the model and ask it, each rank its share; every rank must call it.

    Raises:
        DataError: where a suite cannot be read.
    """
    dataset, objective, sequence_length = (
        subject.dataset,
        subject.objective,
        config.training.sequence_length,
    )

    def measure_split(split: Split, most: int | None = None) -> Measurement:
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
            num_classes=len(dataset.labels) if objective.reads_documents else 0,
        )

    measured = measure_split(subject.held_out)
    errors = {}
    if measured.probabilities is not None and not config.data.has_label_sets:
        errors = {
            part: count_errors(measure_split(split, MAX_COMPARED))
            for part, split in ((Part.TRAIN, dataset.train), (Part.VALIDATION, dataset.validation))
            if split is not subject.held_out
        }
    asking = Asking(
        config, subject.model, subject.tokenizer, ranks, end_of_text=dataset.end_of_text
    )
    asked = [asking.ask(suite, i) for i, suite in enumerate(config.evaluation.suites)]
    return Findings(measured=measured, errors=errors, asked=asked)


def make_report(
    config: RunConfig,
    store: Store,
    subject: Subject,
    found: Findings,
    baseline: Mapping[str, float | None],
) -> Report:
    """Make a report of what was found out, with what one rank does alone.

    Raises:
        ConfigurationError: where the encoder of a suite cannot be used.
        DataError: where the lexicon of a suite cannot be read.
        StoreError: where the store fails.
    """
    model, tokenizer, dataset = subject.model, subject.tokenizer, subject.dataset
    held_out, objective, measured = subject.held_out, subject.objective, found.measured
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
    judging = Judging(config, model, tokenizer, train=dataset.train)
    suites = [
        judging.judge(suite, index, asked)
        for index, (suite, asked) in enumerate(
            zip(config.evaluation.suites, found.asked, strict=True)
        )
    ]
    unigram_loss = compute_baseline_loss(config, dataset, held_out)
    # Bytes can be counted where all text is predicted.
    text = held_out if objective.fixed_targets == config.training.sequence_length else None
    metrics = clean_metrics(
        {
            **describe_loss(measured.loss, text),
            "accuracy": measured.accuracy,
            **({} if classes is None else classes.metrics),
            **describe_loss(unigram_loss, text, prefix="unigram."),
            **{
                f"{result.suite.name}.{name}": value
                for result in suites
                for name, value in result.metrics.items()
            },
        }
    )
    curve = json.loads(store.read_bytes(CURVES))
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
        classes=classes,
        curve=curve,
        pace=json.loads(store.read_bytes(PACE)) if store.find_object(PACE) else [],
        samples=write_samples(config, dataset, held_out, objective, model, tokenizer),
        shape=describe_shape(model.config),
    )


def choose_split(dataset: Dataset, held_out: HeldOut) -> Split:
    """Return the part of the data to measure on.

    Raises:
        StoreError: where the dataset has no such part.
    """
    if held_out is HeldOut.VALIDATION:
        return dataset.validation
    if dataset.test is None:
        raise StoreError(
            "the dataset of the run has no test part, which evaluation.split asks for",
            reason="DatasetDamaged",
            next_step="give data.split.testFraction in a new job",
        )
    return dataset.test


def pick_headlines(suites: Sequence[SuiteResult]) -> dict[str, float]:
    """Return the metrics of suites that the status has, as far as they were measured."""
    return {
        f"{result.suite.name}.{name}": value
        for result in suites
        for name in HEADLINES[result.suite.kind]
        if (value := result.metrics.get(name)) is not None and math.isfinite(value)
    }


def count_errors(measured: Measurement) -> tuple[int, int]:
    """Return how many documents were classified, and how many of them wrongly."""
    right = round(measured.accuracy * measured.num_targets)
    return measured.num_targets, measured.num_targets - right
