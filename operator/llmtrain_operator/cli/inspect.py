"""`llmtrain status` and `llmtrain logs`: looking at a local run from outside.

Below: the job's folder. Above: the command line.
"""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from llmtrain_api import JobStatus, LLMTrainingJob
from llmtrain_api.naming import PARENT_ANNOTATION
from llmtrain_api.planned import PlanStatus
from llmtrain_api.status import Phase
from llmtrain_operator.cli.outcome import print_outcome, print_plain
from llmtrain_operator.cli.plan import format_bytes, format_large
from llmtrain_operator.cli.runs import find_job
from llmtrain_operator.cli.view import format_seconds
from llmtrain_operator.world.job_folder import JobFolder

ATTEMPTS_SHOWN = 5


def print_status(name: str, namespace: str, store: Path) -> None:
    """Say how far a job is, or how it ended.

    Raises:
        click.ClickException: there is no such job in the store.
    """
    console = Console()
    folder = JobFolder(store, namespace, name)
    job = find_job(name, namespace, store)
    status = job.status
    if (parent := job.metadata.annotations.get(PARENT_ANNOTATION)) is not None:
        print_plain(console, f"made after {parent}")
    if folder.is_held():
        console.print(_tabulate_progress(job, folder))
    for attempt in status.attempts[-ATTEMPTS_SHOWN:]:
        line = f"{attempt.finished_at}  {attempt.stage}-{attempt.index}: {attempt.message}"
        console.print(line, style="yellow", markup=False, highlight=False)
    if not folder.is_held():
        print_outcome(job, store, console)


def print_logs(name: str, namespace: str, store: Path, *, only: str | None) -> None:
    """Print the logs of a job's processes, the one that began last at the end.

    Args:
        name: The job.
        namespace: Its namespace.
        store: The folder that takes the store's place.
        only: Whose logs, as `train-0` or `prepare`; None: everybody's.

    Raises:
        click.ClickException: there is no such job, or no such process.
    """
    folder = JobFolder(store, namespace, name)
    find_job(name, namespace, store)
    logs = folder.list_logs()
    chosen = [log for log in logs if only is None or log.stem.startswith(f"{name}-{only}-")]
    if not chosen:
        known = ", ".join(log.stem.removeprefix(f"{name}-") for log in logs) or "none yet"
        raise click.ClickException(f"{name} has no logs of {only or 'processes'}; it has: {known}")
    for log in chosen:
        click.echo(click.style(f"==> {log.stem} <==", bold=True))
        click.echo(log.read_text(encoding="utf-8", errors="replace"))


def _tabulate_progress(job: LLMTrainingJob, folder: JobFolder) -> Table:
    status = job.status
    table = Table.grid(padding=(0, 2))
    table.add_row("job", f"{folder.key}  {status.phase or Phase.PENDING}")
    if status.plan is not None:
        table.add_row("plan", describe_plan(status.plan))
        for warning in status.plan.warnings:
            table.add_row("warning", warning)
    if status.progress is not None:
        table.add_row("step", _describe_step(status))
    if status.checkpoint is not None:
        table.add_row("checkpoint", f"step {status.checkpoint.step}")
    restarts = status.restarts + status.process_restarts
    table.add_row("restarts", str(restarts))
    if status.progress is not None and status.progress.rollbacks:
        rollbacks, skipped = status.progress.rollbacks, status.progress.skipped_batches
        table.add_row("rollbacks", f"{rollbacks}, without {skipped} batches")
    if status.message:
        table.add_row("message", status.message)
    return table


def describe_plan(plan: PlanStatus) -> str:
    """Say in a line what a job is expected to take."""
    words = []
    if plan.parameters is not None:
        words.append(f"{format_large(plan.parameters)} parameters")
    if plan.trained_parameters != plan.parameters:
        words.append(f"of which {format_large(plan.trained_parameters or 0)} are trained")
    if plan.tokens is not None:
        words.append(f"{format_large(plan.tokens)} tokens")
    if plan.epochs is not None:
        words.append(f"{plan.epochs:g} epochs")
    if plan.memory_bytes is not None:
        limit = plan.memory_limit_bytes
        of_limit = "" if limit is None else f" of {format_bytes(limit)}"
        words.append(f"{format_bytes(plan.memory_bytes)}{of_limit} for each rank")
    if plan.training_seconds is not None:
        words.append(f"{format_seconds(plan.training_seconds)} of training")
    return ", ".join(words)


def _describe_step(status: JobStatus) -> str:
    progress = status.progress
    assert progress is not None
    words = [f"{progress.step}/{progress.total_steps} ({progress.percent} %)"]
    if progress.loss is not None:
        words.append(f"loss {progress.loss:.3f}")
    if progress.validation_loss is not None:
        words.append(f"held-out loss {progress.validation_loss:.3f}")
    if progress.remaining_seconds:
        words.append(f"{format_seconds(progress.remaining_seconds)} left")
    return ", ".join(words)
