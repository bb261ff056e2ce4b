"""`llmtrain demo`: a whole run on this machine, from text that Python carries to a model's words.

Below: `corpus` makes the text, `run` trains on it, as on any other job. Above: the command line.

The manifest lies in the store, where people can read, change and run it. It is the truth: what
is there is used as it is, and a change of it begins a new run.
"""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from llmtrain_api import LLMTrainingJob
from llmtrain_api.status import Phase
from llmtrain_operator.cli.corpus import CorpusMissingError, write_corpus
from llmtrain_operator.cli.machine import TRAINER_MODULES, require_packages
from llmtrain_operator.cli.manifest import load_job
from llmtrain_operator.cli.outcome import locate_object, print_outcome, print_plain
from llmtrain_operator.cli.run import exit_code, follow_job
from llmtrain_operator.world.job_folder import JobBusyError, JobFolder, list_changes, replace_file

MANIFEST = "demo.yaml"
CORPUS_URI = "s3://demo/python.jsonl"
"""Where the shipped manifest reads; the text is made where it is not there."""

STEPS = re.compile(r"^( +steps:) *[0-9]+", re.MULTILINE)


def run_demo(store: Path, *, steps: int | None, again: bool) -> int:
    """Train on Python's documentation and show what the model writes; exit code 0: it does.

    Args:
        store: The folder that takes the place of the object store.
        steps: Takes the place of the manifest's training.steps.
        again: Train anew, even though there is a finished run.

    Raises:
        click.ClickException: it cannot be run here, and what to do.
    """
    require_packages(TRAINER_MODULES, extra="trainer")
    console = Console()
    manifest = store / MANIFEST
    try:
        _write_manifest(manifest, steps)
        job = load_job(manifest)
        if steps not in (None, job.spec.training.steps):
            raise click.ClickException(
                f"{manifest} has no line `steps: {job.spec.training.steps}` to put {steps} into; "
                "change spec.training.steps there"
            )
        folder = JobFolder(store, job.metadata.namespace, job.metadata.name)
        _make_room(job, folder, console, again=again)
        if any(source.uri == CORPUS_URI for source in job.spec.data.sources):
            _ensure_corpus(locate_object(store, CORPUS_URI), console)
    except JobBusyError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"the demo cannot be run in {store}: {error}") from error
    job = follow_job(job, store, console)
    if job.status.phase is Phase.SUCCEEDED:
        _print_samples(job, store, console)
    print_outcome(job, store, console)
    if job.status.phase is Phase.SUCCEEDED:
        print_plain(console, f"  {'manifest':12}{manifest}: change it and call this again")
    return exit_code(job)


def _write_manifest(path: Path, steps: int | None) -> None:
    """Put the manifest into the store where there is none, with the steps that were asked for."""
    if path.exists():
        text = path.read_text(encoding="utf-8")
    else:
        text = resources.files(__package__).joinpath(MANIFEST).read_text(encoding="utf-8")
        path.parent.mkdir(parents=True, exist_ok=True)
    wanted = text if steps is None else STEPS.sub(rf"\1 {steps}", text, count=1)
    if wanted != text or not path.exists():
        replace_file(path, wanted)


def _make_room(job: LLMTrainingJob, folder: JobFolder, console: Console, *, again: bool) -> None:
    """Say what is there of an earlier run, and forget it where this one is to be another.

    Raises:
        JobBusyError: another process runs it.
    """
    present = folder.read_job()
    if present is None:
        return
    changes = list_changes(present, job)
    if changes or again:
        with folder.hold():
            folder.forget()
        why = "; ".join(changes) or "--again"
        print_plain(console, f"Training anew ({why}). The files of the run before stay.")
    elif present.status.phase is Phase.SUCCEEDED:
        ended = present.status.finished_at
        print_plain(console, f"Trained already, until {ended}; --again trains anew.")
    else:
        print_plain(console, "An earlier run has not come to its end; this one goes on with it.")


def _ensure_corpus(path: Path, console: Console) -> None:
    if path.exists():
        return
    try:
        corpus = write_corpus(path)
    except CorpusMissingError as error:
        raise click.ClickException(str(error)) from None
    print_plain(
        console,
        f"{path}: {corpus.documents:,} texts of Python's manual and docstrings, "
        f"{corpus.characters:,} characters",
    )


def _print_samples(job: LLMTrainingJob, store: Path, console: Console) -> None:
    """Print what the model writes, from the report's data beside the report."""
    results = job.status.results
    if results is None or results.report_uri is None:
        return
    path = locate_object(store, results.report_uri).with_suffix(".json")
    if not path.exists():  # an earlier run's, tidied away by someone
        return
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    console.print(Text("What the model writes:", style="bold"))
    for sample in report["samples"]:
        text = Text.assemble((sample["prompt"], "bold cyan"), sample["continuation"].rstrip())
        console.print(text, soft_wrap=True)
        console.print()
