"""What came of a run, and what to do next, in a few lines at the end of a command.

Below: the status. Above: `run`, `demo`, `status`.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmtrain_api import LLMTrainingJob
from llmtrain_api.records import StageResult
from llmtrain_api.status import Phase


def locate_object(store: Path, uri: str) -> Path:
    """Return where s3://bucket/key lies in the folder that takes the store's place."""
    return store / uri.removeprefix("s3://")


def print_outcome(job: LLMTrainingJob, store: Path, console: Console) -> None:
    """Say how a run ended, where its model and report are, or what to do next."""
    name, status = job.metadata.name, job.status
    if status.phase is Phase.SUCCEEDED:
        console.print(Text(f"{name} succeeded", style="bold green"))
        if status.results is not None:
            console.print(_tabulate_results(status.results, store))
        return
    checkpoint = status.checkpoint.step if status.checkpoint is not None else None
    goes_on = f"from step {checkpoint}" if checkpoint is not None else "from the beginning"
    if status.phase is Phase.FAILED:
        console.print(Text(f"{name} failed: {status.message}", style="bold red"))
        _print_plain(console, f"What its processes said: {_name_command('logs', job, store)}")
        _print_plain(console, f"The same command again goes on {goes_on}.")
    elif job.spec.run_policy.suspend:
        _print_plain(console, f"{name} is suspended; set runPolicy.suspend to false to go on")
    else:
        _print_plain(console, f"{name} stopped; the same command again goes on {goes_on}")


def _name_command(command: str, job: LLMTrainingJob, store: Path) -> str:
    metadata = job.metadata
    namespace = "" if metadata.namespace == "default" else f" -n {metadata.namespace}"
    return f"llmtrain {command} {metadata.name} --store {store}{namespace}"


def _tabulate_results(results: StageResult, store: Path) -> Table:
    table = Table.grid(padding=(0, 2))
    if results.validation_loss is not None:
        loss = f"{results.validation_loss:.3f} nats per token on all held-out text"
        if results.unigram_loss is not None:
            loss += f"; a unigram baseline has {results.unigram_loss:.3f}"
        table.add_row("  loss", loss)
    if results.perplexity is not None and results.bits_per_byte is not None:
        measures = f"{results.perplexity:.1f}; {results.bits_per_byte:.3f} bits per byte"
        table.add_row("  perplexity", measures)
    if results.export_uri is not None:
        size = f" ({results.parameters:,} parameters)" if results.parameters else ""
        table.add_row("  model", f"{locate_object(store, results.export_uri)}{size}")
    if results.report_uri is not None:
        table.add_row("  report", str(locate_object(store, results.report_uri)))
    return table


def _print_plain(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
