"""The evaluation stage: how well the exported model predicts held-out text, and whether that does.

Below: `export` (the model as users get it, read back from the store by `transformers`),
`measure`, `classification`, `samples`, `suites`, `verdict`, `report`. Above: the agent calls
`run_evaluate` in one process.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import transformers
from numpy.typing import NDArray
from transformers import AutoTokenizer

from llmtrain_api.evaluation import HeldOut
from llmtrain_api.findings import Part
from llmtrain_api.objective import Objective, count_spans
from llmtrain_api.records import RankPhase, StageResult
from llmtrain_api.run import RunConfig
from llmtrain_trainer.checkpoint.manifest import CURVES, PACE
from llmtrain_trainer.dataset.loading import Dataset, Split, open_run_dataset
from llmtrain_trainer.evaluation.baseline import read_baseline
from llmtrain_trainer.evaluation.measure import Measurement, choose_sequences, measure
from llmtrain_trainer.evaluation.report import Report, render_report
from llmtrain_trainer.evaluation.samples import write_samples
from llmtrain_trainer.evaluation.suites import Asking
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
from llmtrain_trainer.objective.batch import count_samples
from llmtrain_trainer.objective.choosing import choose_objective
from llmtrain_trainer.objective.classes import count_classes, mark_labels
from llmtrain_trainer.objective.documents import LEARNED
from llmtrain_trainer.parallel import count_threads, join_ranks, place_model
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.store import open_store
from llmtrain_trainer.tokenizer.marks import Role
from llmtrain_trainer.training.micro_batch import read_micro_batch, settle_micro_batch

if TYPE_CHECKING:  # they bring scikit-learn, which only classifiers need
    from llmtrain_trainer.evaluation.classification.record import ClassReport
    from llmtrain_trainer.evaluation.classification.set_reporting import LabelSetReport

REPORT = "evaluation/report.html"

MAX_COMPARED = 2000
"""Documents of the other parts that are classified, to see where errors rise."""


def run_evaluate(config: RunConfig, reporter: Reporter) -> StageResult:
    """Measure the exported model on all held-out text, judge it, and write the report.

    Raises:
        ConfigurationError: where there is nothing of what it is to be compared with.
        DataError: where a suite cannot be asked.
        StoreError: where the export or the data is missing or damaged.
    """
    reporter.enter(RankPhase.RESTORING)
    baseline = read_baseline(config)
    threads = count_threads(config.threads_per_process, ranks_on_host=1)
    transformers.utils.logging.disable_progress_bar()
    with join_ranks(RankGroup(), threads=threads) as ranks:
        store = open_store(config.run_uri, config.storage)
        if config.training.auto_micro_batch:
            config = settle_micro_batch(config, read_micro_batch(store))
        dataset = open_run_dataset(store, config)
        with tempfile.TemporaryDirectory(prefix="llmtrain-evaluate-") as name:
            download_export(store, Path(name))
            model = load_export(config, Path(name))
            tokenizer = AutoTokenizer.from_pretrained(name)
        isolates = model.config.model_type in ISOLATING
        objective = choose_objective(config, dataset, isolates=isolates)
        place_model(model, ranks.device).eval()

        reporter.enter(RankPhase.EVALUATING)
        sequence_length = config.training.sequence_length
        held_out = choose_split(dataset, config.evaluation.split)

        def measure_split(split: Split, most: int | None = None) -> Measurement:
            available = count_samples(objective, split, sequence_length)
            return measure(
                model,
                objective,
                split,
                choose_sequences(available, available if most is None else most),
                ranks,
                sequence_length=sequence_length,
                batch_size=config.training.micro_batch_size or config.training.global_batch,
                logits_bytes=config.training.find_logits_bytes(on_gpu=ranks.device.type == "cuda"),
                num_classes=len(dataset.labels) if objective.reads_documents else 0,
            )

        measured = measure_split(held_out)
        loss = measured.loss
        reporter.report(validation_loss=loss)
        classes: ClassReport | LabelSetReport | None = None
        if measured.probabilities is not None and config.data.has_label_sets:
            from llmtrain_trainer.evaluation.classification.set_reporting import report_label_sets

            classes = report_label_sets(
                config, dataset, held_out, measured.probabilities, tokenizer, store
            )
        elif measured.probabilities is not None:
            # Seconds for scikit-learn, which nothing else here needs.
            from llmtrain_trainer.evaluation.classification.reporting import report_classification

            others = {
                part: count_errors(measure_split(split, MAX_COMPARED))
                for part, split in (
                    (Part.TRAIN, dataset.train),
                    (Part.VALIDATION, dataset.validation),
                )
                if split is not held_out
            }
            classes = report_classification(
                config, dataset, held_out, measured.probabilities, others, tokenizer, store
            )
        samples = write_samples(config, dataset, held_out, objective, model, tokenizer)
        asking = Asking(
            config, model, tokenizer, end_of_text=dataset.end_of_text, train=dataset.train
        )
        suites = [asking.run(suite, i) for i, suite in enumerate(config.evaluation.suites)]

    if config.objective is Objective.CLASSIFICATION and config.data.has_label_sets:
        unigram_loss = compute_base_rate_loss(
            mark_labels(dataset.train.label_sets, dataset.labels),
            mark_labels(held_out.label_sets, dataset.labels),
        )
    else:
        unigram_loss = count_text_share(config) * compute_unigram_loss(
            *count_targets(config, dataset, held_out)
        )
    # Bytes can be counted where all text is predicted.
    text = held_out if objective.fixed_targets == sequence_length else None
    metrics = clean_metrics(
        {
            **describe_loss(loss, text),
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
    gates = judge_gates(config.evaluation.gates, {**metrics, **baseline})
    curve = json.loads(store.read_bytes(CURVES))
    report = Report(
        config=config,
        step=int(curve[-1]["step"]),
        parameters=count_parameters(model),
        validation_loss=loss,
        perplexity=math.exp(loss),
        accuracy=metrics["accuracy"] or 0.0,
        bits_per_byte=metrics.get("bits_per_byte"),
        unigram_loss=unigram_loss,
        held_out_tokens=measured.num_targets,
        metrics={**metrics, **baseline},
        gates=gates,
        suites=suites,
        classes=classes,
        curve=curve,
        pace=json.loads(store.read_bytes(PACE)) if store.find_object(PACE) else [],
        samples=samples,
        shape=describe_shape(model.config),
    )
    write_verdict(store, gates)
    store.write_bytes(REPORT_DATA, json.dumps(report.dump(), indent=1).encode())
    store.write_bytes(REPORT, render_report(report).encode())
    reporter.enter(RankPhase.FINISHED)
    return StageResult(
        validation_loss=report.validation_loss,
        unigram_loss=report.unigram_loss,
        perplexity=report.perplexity,
        accuracy=report.accuracy,
        f1_macro=metrics.get("f1_macro"),
        ece=metrics.get("ece"),
        bits_per_byte=report.bits_per_byte,
        gates=[gate.result for gate in gates] or None,
        export_uri=locate_export(config),
        report_uri=f"{config.run_uri}/{REPORT}",
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


def compute_unigram_loss(
    train_counts: NDArray[np.int64], validation_counts: NDArray[np.int64]
) -> float:
    """Return the held-out loss of a model that knows token frequencies only, nats per token.

    Args:
        train_counts: occurrences of each token in the training split [vocabulary].
        validation_counts: the same of the held-out split.

    Frequencies are smoothed by one (Laplace), so that a token never seen costs a finite loss.
    """
    probabilities = (train_counts + 1.0) / (train_counts.sum() + len(train_counts))
    return float(-(validation_counts @ np.log(probabilities)) / validation_counts.sum())


def compute_base_rate_loss(
    train_marks: NDArray[np.int64], held_out_marks: NDArray[np.int64]
) -> float:
    """Return the held-out loss of a model that knows only how common each label is.

    Args:
        train_marks: 1 where a training document has a label [documents, labels].
        held_out_marks: the same of the held-out split.

    Returns:
        Nats for each decision; shares are smoothed by one, as those of tokens.
    """
    shares = (train_marks.sum(axis=0) + 1.0) / (len(train_marks) + 2.0)
    losses = np.where(held_out_marks == 1, -np.log(shares), -np.log1p(-shares))
    return float(losses.mean())


def count_targets(
    config: RunConfig, dataset: Dataset, held_out: Split
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how often each token, or class, is to be learned, and to be predicted."""
    size = dataset.vocabulary_size
    if config.objective is Objective.CLASSIFICATION:
        return (
            count_classes(dataset.train.labels, dataset.labels),
            count_classes(held_out.labels, dataset.labels),
        )
    if config.objective is Objective.SEQUENCE_TO_SEQUENCE:
        answers = [Role.ASSISTANT]
        return dataset.train.count_tokens(size, answers), held_out.count_tokens(size, answers)
    if config.objective is not Objective.CAUSAL or not dataset.train.has_roles:
        return dataset.unigram_counts, held_out.count_tokens(size)
    learned = LEARNED[config.loss_on]
    return dataset.train.count_tokens(size, learned), held_out.count_tokens(size, learned)


def count_errors(measured: Measurement) -> tuple[int, int]:
    """Return how many documents were classified, and how many of them wrongly."""
    right = round(measured.accuracy * measured.num_targets)
    return measured.num_targets, measured.num_targets - right


def count_text_share(config: RunConfig) -> float:
    """Return the share of the targets that are text.

    The others are the tokens that stand for spans, in their order, and the end: a baseline gets
    them for nothing.
    """
    if config.objective is not Objective.SPAN_CORRUPTION:
        return 1.0
    counts = count_spans(config.training.sequence_length, config.training.span_corruption)
    return counts.cut / counts.targets


def describe_loss(loss: float, text: Split | None, *, prefix: str = "") -> dict[str, float]:
    """Return a loss and what follows from it, as metrics by name.

    Args:
        loss: nats for each target.
        text: whose tokens are all targets; None where some are not.
        prefix: of the names.
    """
    values = {"loss": loss, "perplexity": math.exp(loss)}
    if text is not None:
        values["bits_per_byte"] = convert_to_bits_per_byte(
            loss, num_tokens=text.num_tokens, num_bytes=text.num_bytes
        )
    return {prefix + name: value for name, value in values.items()}


def convert_to_bits_per_byte(loss: float, *, num_tokens: int, num_bytes: int) -> float:
    """Turn nats per token into bits per byte of UTF-8, comparable over tokenizers."""
    return loss / math.log(2.0) * num_tokens / num_bytes
