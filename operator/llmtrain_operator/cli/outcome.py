"""What came of a run, and what to do next, in a few lines at the end of a command.

Below: the status. Above: `run`, `demo`, `status`, `submit`.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from llmtrain_api import LLMTrainingJob
from llmtrain_api.base import KIND
from llmtrain_api.records import StageResult
from llmtrain_api.status import Phase

LABEL_CHARACTERS = 12


def locate_object(store: Path, uri: str) -> Path:
    """Return where s3://bucket/key lies in the folder that takes the store's place."""
    return store / uri.removeprefix("s3://")


def print_outcome(job: LLMTrainingJob, store: Path, console: Console) -> None:
    """Say how a local run ended, where its model and report are, or what to do next."""
    name, status = job.metadata.name, job.status
    if status.phase is Phase.SUCCEEDED:
        print_success(job, store, console)
        return
    checkpoint = status.checkpoint.step if status.checkpoint is not None else None
    goes_on = f"from step {checkpoint}" if checkpoint is not None else "from the beginning"
    if status.phase is Phase.FAILED and has_failed_gates(job):
        print_failure(job, console)
        print_results(job, store, console)
    elif status.phase is Phase.FAILED:
        print_failure(job, console)
        print_plain(console, f"What its processes said: {name_command('logs', job, store)}")
        print_plain(console, f"The same command again goes on {goes_on}.")
    elif job.spec.run_policy.suspend:
        print_plain(console, f"{name} is suspended; set runPolicy.suspend to false to go on")
    else:
        print_plain(console, f"{name} stopped; the same command again goes on {goes_on}")


def print_cluster_outcome(job: LLMTrainingJob, console: Console) -> None:
    """Say how a job of a cluster ended, where its model and report are, or what to look at."""
    if job.status.phase is Phase.SUCCEEDED:
        print_success(job, None, console)
        return
    print_failure(job, console)
    if has_failed_gates(job):
        print_results(job, None, console)
        return
    metadata = job.metadata
    described = f"kubectl -n {metadata.namespace} describe {KIND.lower()} {metadata.name}"
    print_plain(console, f"What led to it: {described}")


def print_success(job: LLMTrainingJob, store: Path | None, console: Console) -> None:
    """Say what a run has made; objects are files of `store`, or keep their URIs (None)."""
    console.print(Text(f"{job.metadata.name} succeeded", style="bold green"))
    print_results(job, store, console)


def print_results(job: LLMTrainingJob, store: Path | None, console: Console) -> None:
    """Say how good the model is, and where it is."""
    if job.status.results is not None:
        for label, value in _list_results(job.status.results, store):
            print_plain(console, f"  {label:{LABEL_CHARACTERS}}{value}")


def print_failure(job: LLMTrainingJob, console: Console) -> None:
    """Say why a run failed."""
    console.print(Text(f"{job.metadata.name} failed: {job.status.message}", style="bold red"))


def has_failed_gates(job: LLMTrainingJob) -> bool:
    """Tell whether the run did all that it should, and the model is not what was asked for."""
    results = job.status.results
    return results is not None and any(not gate.passed for gate in results.gates or [])


def print_plain(console: Console, line: str) -> None:
    """Print a line as it is: paths and commands are not broken, brackets mean nothing."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def name_command(command: str, job: LLMTrainingJob, store: Path) -> str:
    """Return the command line that asks for something of a local job."""
    metadata = job.metadata
    namespace = "" if metadata.namespace == "default" else f" -n {metadata.namespace}"
    return f"llmtrain {command} {metadata.name} --store {store}{namespace}"


def _list_results(results: StageResult, store: Path | None) -> list[tuple[str, str]]:
    def locate(uri: str) -> str:
        return uri if store is None else str(locate_object(store, uri))

    rows = []
    if results.validation_loss is not None:
        unit = "token" if results.bits_per_byte is not None else "token to predict"
        loss = f"{results.validation_loss:.3f} nats per {unit} on all held-out text"
        if results.unigram_loss is not None:
            loss += f"; a unigram baseline: {results.unigram_loss:.3f}"
        rows.append(("loss", loss))
    if results.perplexity is not None and results.bits_per_byte is not None:
        measures = f"{results.perplexity:.1f}; {results.bits_per_byte:.3f} bits per byte"
        rows.append(("perplexity", measures))
    if results.accuracy is not None and results.bits_per_byte is None:
        rows.append(("accuracy", f"{results.accuracy:.1%} right at the first guess"))
    if results.f1_macro is not None:
        rows.append(("macro F1", f"{results.f1_macro:.3f}"))
    if results.export_uri is not None:
        size = f" ({results.parameters:,} parameters)" if results.parameters else ""
        rows.append(("model", f"{locate(results.export_uri)}{size}"))
    if results.report_uri is not None:
        rows.append(("report", locate(results.report_uri)))
    return rows
