"""The evaluation stage: how well the exported model predicts held-out text, and what it writes.

Below: `export` (the model as users get it, read back from the store by `transformers`),
`measure`, `samples`, `report`. Above: the agent calls `run_evaluate` in one process.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import numpy as np
import transformers
from numpy.typing import NDArray
from transformers import AutoTokenizer

from llmtrain_api.objective import Objective, count_spans
from llmtrain_api.records import RankPhase, StageResult
from llmtrain_api.run import RunConfig
from llmtrain_api.training import HeldOut
from llmtrain_trainer.checkpoint.manifest import CURVES
from llmtrain_trainer.dataset.loading import Dataset, Split, open_run_dataset
from llmtrain_trainer.evaluation.measure import choose_sequences, compute_macro_f1, measure
from llmtrain_trainer.evaluation.report import Report, render_report
from llmtrain_trainer.evaluation.samples import write_samples
from llmtrain_trainer.failures import StoreError
from llmtrain_trainer.model.blueprint import describe_shape
from llmtrain_trainer.model.export import download_export, load_export, locate_export
from llmtrain_trainer.model.network import ISOLATING, count_parameters
from llmtrain_trainer.objective.batch import count_samples
from llmtrain_trainer.objective.choosing import choose_objective
from llmtrain_trainer.objective.classes import count_classes
from llmtrain_trainer.objective.documents import LEARNED
from llmtrain_trainer.parallel import count_threads, join_ranks, place_model
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.store import open_store
from llmtrain_trainer.tokenizer.marks import Role

REPORT = "evaluation/report.html"
REPORT_DATA = "evaluation/report.json"


def run_evaluate(config: RunConfig, reporter: Reporter) -> StageResult:
    """Measure the exported model on all held-out text and write the report.

    Raises:
        StoreError: where the export or the data is missing or damaged.
    """
    reporter.enter(RankPhase.RESTORING)
    threads = count_threads(config.threads_per_process, ranks_on_host=1)
    transformers.utils.logging.disable_progress_bar()
    with join_ranks(RankGroup(), threads=threads) as ranks:
        store = open_store(config.run_uri, config.storage)
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
        num_sequences = count_samples(objective, held_out, sequence_length)
        measured = measure(
            model,
            objective,
            held_out,
            choose_sequences(num_sequences, num_sequences),
            ranks,
            sequence_length=sequence_length,
            batch_size=config.training.micro_batch_size or config.training.batch_size,
            num_classes=len(dataset.labels) if objective.reads_documents else 0,
        )
        loss = measured.loss
        reporter.report(validation_loss=loss)
        samples = write_samples(config, dataset, held_out, objective, model, tokenizer)

    curve = json.loads(store.read_bytes(CURVES))
    report = Report(
        config=config,
        step=int(curve[-1]["step"]),
        parameters=count_parameters(model),
        validation_loss=loss,
        perplexity=math.exp(loss),
        accuracy=measured.accuracy,
        macro_f1=None if measured.confusion is None else compute_macro_f1(measured.confusion),
        majority_share=None
        if measured.confusion is None
        else count_majority(dataset, measured.confusion),
        bits_per_byte=convert_to_bits_per_byte(
            loss, num_tokens=held_out.num_tokens, num_bytes=held_out.num_bytes
        )
        if objective.fixed_targets == sequence_length
        else None,
        unigram_loss=count_text_share(config)
        * compute_unigram_loss(*count_targets(config, dataset, held_out)),
        held_out_tokens=measured.num_targets,
        curve=curve,
        samples=samples,
        shape=describe_shape(model.config),
    )
    store.write_bytes(REPORT_DATA, json.dumps(report.dump(), indent=1).encode())
    store.write_bytes(REPORT, render_report(report).encode())
    reporter.enter(RankPhase.FINISHED)
    return StageResult(
        validation_loss=report.validation_loss,
        unigram_loss=report.unigram_loss,
        perplexity=report.perplexity,
        accuracy=report.accuracy,
        macro_f1=report.macro_f1,
        bits_per_byte=report.bits_per_byte,
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


def count_majority(dataset: Dataset, confusion: NDArray[np.int64]) -> float:
    """Return the accuracy of always saying the class that is the commonest in training."""
    commonest = int(count_classes(dataset.train.labels, dataset.labels).argmax())
    return float(confusion[commonest].sum() / confusion.sum())


def count_text_share(config: RunConfig) -> float:
    """Return the share of the targets that are text.

    The others are the tokens that stand for spans, in their order, and the end: a baseline gets
    them for nothing.
    """
    if config.objective is not Objective.SPAN_CORRUPTION:
        return 1.0
    counts = count_spans(config.training.sequence_length, config.training.span_corruption)
    return counts.cut / counts.targets


def convert_to_bits_per_byte(loss: float, *, num_tokens: int, num_bytes: int) -> float:
    """Turn nats per token into bits per byte of UTF-8, comparable over tokenizers."""
    return loss / math.log(2.0) * num_tokens / num_bytes
