"""The evaluation stage: how well the exported model predicts held-out text, and whether that does.

Below: `export` (the model as users get it, read back from the store by `transformers`),
`examining`, `checkpoints`, `reporting`, `verdict`, `report`. Above: the agent calls `run_evaluate`
in every rank.

All ranks measure and ask, each its share; then rank 0 alone makes a report of it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import transformers
from transformers import AutoTokenizer

from llmtrain_api.evaluation import HeldOut
from llmtrain_api.records import CheckpointResult, RankPhase, StageResult
from llmtrain_api.run import RunConfig
from llmtrain_trainer.dataset.loading import Dataset, Split, open_run_dataset
from llmtrain_trainer.evaluation.baseline import read_baseline
from llmtrain_trainer.evaluation.checkpoints import examine_checkpoints
from llmtrain_trainer.evaluation.examining import Subject, examine
from llmtrain_trainer.evaluation.metrics import pick_headlines, pick_numbers
from llmtrain_trainer.evaluation.report import Report, render_report
from llmtrain_trainer.evaluation.reporting import make_report
from llmtrain_trainer.evaluation.verdict import (
    REPORT_DATA,
    write_verdict,
)
from llmtrain_trainer.failures import StoreError
from llmtrain_trainer.model.export import download_export, load_export, locate_export
from llmtrain_trainer.model.network import ISOLATING
from llmtrain_trainer.objective.choosing import choose_objective
from llmtrain_trainer.parallel import count_threads, join_ranks, place_model
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.store import Store, open_store
from llmtrain_trainer.training.micro_batch import read_micro_batch, settle_micro_batch

REPORT = "evaluation/report.html"

HELD_OUT_METRICS = ("loss", "accuracy", "f1_macro")
"""What the status says of a checkpoint beside suites."""


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
        others = examine_checkpoints(config, store, subject, ranks)
    if group.rank > 0:
        reporter.enter(RankPhase.FINISHED)
        return StageResult()
    report = make_report(config, store, subject, found, baseline, others)
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
        checkpoints=describe_checkpoints(report) or None,
        gates=[gate.result for gate in report.gates] or None,
        export_uri=locate_export(config),
        report_uri=f"{config.run_uri}/{REPORT}",
    )


def describe_checkpoints(report: Report) -> list[CheckpointResult]:
    """Return what the status says of evaluation.checkpoints."""
    names = [*HELD_OUT_METRICS, *pick_headlines(report.suites)]
    return [
        CheckpointResult(name=item.name, step=item.step, metrics=pick_numbers(item.metrics, names))
        for item in report.checkpoints
    ]


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
