"""`llmtrain search`: train one job at several sizes, and keep the smallest that is good enough.

Below: `sizes` decides, `run` trains, `runs` compares. Above: the command line.

Each size is a job of its own, `<name>-<size>`, in the same store: they share their prepared data,
which is found by what it was made of, and whatever is done already is not done again. So the same
command goes on where it was stopped, and a further size costs only itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from llmtrain_api import LLMTrainingJob
from llmtrain_api.base import MAX_NAME_CHARACTERS
from llmtrain_api.status import Phase
from llmtrain_operator.cli.manifest_text import write_manifest
from llmtrain_operator.cli.outcome import (
    has_failed_gates,
    locate_object,
    print_failure,
    print_plain,
)
from llmtrain_operator.cli.run import follow_job
from llmtrain_operator.cli.runs import compare_runs, describe_run
from llmtrain_operator.cli.sizes import Outcome, Search, Tolerance, follow_search, format_size

SEARCHES_FOLDER = "_searches"
"""Beside the jobs of a local store; no bucket's name begins so."""


def search_sizes(
    job: LLMTrainingJob,
    store: Path,
    sizes: list[int],
    *,
    metric: str,
    tolerance: Tolerance,
    price_per_hour: float | None,
) -> int:
    """Train sizes from the largest down, until one is not good enough; return the exit code.

    The code is 0 where a size was found. Table, page and manifest are in the store, below
    `_searches/<namespace>/<name>/`.

    Args:
        job: whose model.size is changed.
        store: folder that takes the object store's place.
        sizes: from the largest down.
        metric: as gates name it.
        tolerance: how much worse than the largest is good enough.
        price_per_hour: of a GPU, or of the machine; None: no costs.

    Raises:
        click.ClickException: it cannot be run here, or nothing is measured by that name.
    """
    console = Console()
    ended: list[LLMTrainingJob] = []
    outcomes: list[Outcome] = []
    search = follow_search(sizes, outcomes, metric, tolerance)
    while search.following is not None:
        console.rule(f"{job.metadata.name} at {format_size(search.following)}")
        sized = follow_job(resize_job(job, search.following), store, console)
        if sized.status.phase is not Phase.SUCCEEDED and not has_failed_gates(sized):
            if sized.status.phase is Phase.FAILED:
                print_failure(sized, console)
            print_plain(console, "The same command goes on with the search.")
            return 1
        ended.append(sized)
        outcomes.append(judge_size(sized, store, search.following, metric))
        search = follow_search(sizes, outcomes, metric, tolerance)
    folder = store / SEARCHES_FOLDER / job.metadata.namespace / job.metadata.name
    folder.mkdir(parents=True, exist_ok=True)
    places = [describe_run(one, store, price_per_hour) for one in ended]
    page = folder / "search.html"
    compare_runs(places, html=page, metric=metric, limit=search.limit)
    told = describe_search(outcomes, search, metric)
    (folder / "search.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    if search.best is None:
        print_plain(
            console,
            f"Not even the largest is good enough: it fails a gate, or has no {metric}; see {page}",
        )
        return 1
    manifest = folder / "job.yaml"
    manifest.write_text(write_manifest(resize_job(job, search.best)), encoding="utf-8")
    assert search.limit is not None
    values = {outcome.size: outcome.value for outcome in outcomes}
    print_plain(
        console,
        f"The smallest that is good enough is {format_size(search.best)}: {metric} "
        f"{values[search.best]:.4g}, where {search.limit:.4g} is. Its manifest: {manifest}",
    )
    return 0


def resize_job(job: LLMTrainingJob, size: int) -> LLMTrainingJob:
    """Return the job of another size, under a name of its own.

    Raises:
        click.ClickException: the model is given by its shape, or the name is too long.
    """
    model = job.spec.model
    if model.pretrained is not None or (model.layers and model.hidden_size):
        raise click.ClickException(
            "a search changes spec.model.size: leave out from, or one of layers and hiddenSize"
        )
    name = f"{job.metadata.name}-{format_size(size)}"
    if len(name) > MAX_NAME_CHARACTERS:
        raise click.ClickException(
            f"the job of a size is called {name}: shorten metadata.name to have at most "
            f"{MAX_NAME_CHARACTERS} characters"
        )
    data = job.model_dump(by_alias=True, exclude_none=True, exclude={"status"})
    data["metadata"]["name"] = name
    data["spec"]["model"]["size"] = size
    return LLMTrainingJob.model_validate(data)


def judge_size(job: LLMTrainingJob, store: Path, size: int, metric: str) -> Outcome:
    """Return what the evaluation of an ended job says.

    Raises:
        click.ClickException: nothing is measured by that name; names what is.
    """
    results = job.status.results
    assert results is not None
    assert results.report_uri is not None
    report = locate_object(store, results.report_uri).with_suffix(".json")
    metrics: dict[str, float | None] = json.loads(report.read_text(encoding="utf-8"))["metrics"]
    if metric not in metrics:
        known = ", ".join(metrics)
        raise click.ClickException(f"--metric {metric}: not measured; measured are {known}")
    return Outcome(size=size, value=metrics[metric], passed=not has_failed_gates(job))


def describe_search(outcomes: list[Outcome], search: Search, metric: str) -> dict[str, Any]:
    """Return a search as JSON-ready camelCase data."""
    return {
        "metric": metric,
        "limit": search.limit,
        "best": search.best,
        "sizes": [
            {"size": outcome.size, "value": outcome.value, "passed": outcome.passed}
            for outcome in outcomes
        ],
    }
