"""Runs side by side: in what they differ, and what came of it.

Below: `run_facts`; `comparison` for how a spec is flattened. Above: `run_commands` prints it,
`run_page` draws it. Pure but for the printing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from llmtrain_api.directions import choose_better
from llmtrain_api.usage import Usage
from llmtrain_trainer.inspection.comparison import flatten
from llmtrain_trainer.inspection.run_facts import RunFacts

ABSENT = "–"
SHOWN_VALUE_CHARACTERS = 48
OF_OTHERS = ("baseline.", "majority.", "tfidf.", "unigram.")
"""Beginnings of metrics of something else than the run's model."""

SECONDS_SHOWN, MINUTES_SHOWN = 120, 120
"""Durations below are in seconds, or in minutes."""


@dataclass(frozen=True, slots=True)
class Row:
    """A fact of every run."""

    section: str
    name: str
    values: tuple[str, ...]
    """One for each run, in words; ABSENT where it lacks the fact."""

    best: frozenset[int] = frozenset()
    """Which runs have the best value, where one is better than another."""


def compare_runs(runs: Sequence[RunFacts]) -> list[Row]:
    """Return differences of the specs, metrics, sizes and times, in this order."""
    return [
        *(
            Row("spec", path, tuple(_cut(value) for value in values))
            for path, values in find_differences(runs)
        ),
        *_compare_metrics(runs),
        *_compare_sizes(runs),
        *_compare_times(runs),
    ]


def find_differences(runs: Sequence[RunFacts]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the paths of specs that are not the same in all runs, each with its JSON values.

    Only sections that all of them have are compared, so that a run of which little is known does
    not differ in everything.
    """
    shared = [name for name in runs[0].spec if all(name in run.spec for run in runs)]
    leaves = [dict(flatten({name: run.spec[name] for name in shared})) for run in runs]
    paths = dict.fromkeys(path for of_run in leaves for path in of_run)
    rows = [(path, tuple(of_run.get(path, ABSENT) for of_run in leaves)) for path in paths]
    return [
        (path, values)
        for path, values in rows
        if len(set(values)) > 1
        # What is empty in one run and not in another is told by what it has there.
        and not any(other.startswith((f"{path}[", f"{path}.")) for other in paths)
    ]


def describe_runs(runs: Sequence[RunFacts]) -> dict[str, Any]:
    """Return the comparison as JSON-ready camelCase data."""
    return {
        "runs": [
            {
                "name": run.place.name,
                "uri": run.place.uri,
                "parent": run.parent,
                "dataset": run.dataset,
                "parameters": run.parameters,
                "steps": run.steps,
                "tokens": run.tokens,
                "metrics": dict(run.metrics),
                "intervals": {name: list(ends) for name, ends in run.intervals.items()},
                "usage": None if run.place.usage is None else run.place.usage.dump(),
                "kilowattHours": run.place.kilowatt_hours,
                "cost": run.place.cost,
                "lacks": list(run.lacks),
            }
            for run in runs
        ],
        "differences": {path: list(values) for path, values in find_differences(runs)},
    }


def print_comparison(runs: Sequence[RunFacts], console: Console) -> None:
    """Print runs as the columns of a table, and what each lacks below it."""
    table = Table("", "", *(escape(run.place.name) for run in runs), box=None, padding=(0, 2, 0, 0))
    section = ""
    for row in compare_runs(runs):
        shown = row.section if row.section != section else ""
        section = row.section
        cells = [
            Text(value, style="bold" if number in row.best else "")
            for number, value in enumerate(row.values)
        ]
        table.add_row(Text(shown, style="dim"), row.name, *cells)
    console.print(table)
    for run in runs:
        for lack in run.lacks:
            console.print(f"{run.place.name}: {lack}", style="yellow", highlight=False)


def format_duration(seconds: float) -> str:
    """Return seconds as 45 s, 12.5 min or 3.2 h."""
    if seconds < SECONDS_SHOWN:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < MINUTES_SHOWN else f"{minutes / 60:.1f} h"


def _compare_metrics(runs: Sequence[RunFacts]) -> list[Row]:
    rows = []
    for name in dict.fromkeys(name for run in runs for name in run.metrics):
        known = [run.metrics.get(name) for run in runs]
        values = tuple(_format_metric(run, name) for run in runs)
        rows.append(Row("metrics", name, values, _find_best(name, known)))
    return rows


def _find_best(name: str, values: Sequence[float | None]) -> frozenset[int]:
    """Return the runs with the best value, where there are several and they differ."""
    known = [value for value in values if value is not None]
    if len(set(known)) < 2 or name.startswith(OF_OTHERS):
        return frozenset()
    best = reduce(lambda first, second: choose_better(name, first, second), known)
    return frozenset(number for number, value in enumerate(values) if value == best)


def _format_metric(run: RunFacts, name: str) -> str:
    value = run.metrics.get(name)
    if value is None:
        return ABSENT
    ends = run.intervals.get(name)
    return f"{value:.4g}" if ends is None else f"{value:.4g} ({ends[0]:.4g} to {ends[1]:.4g})"


def _compare_sizes(runs: Sequence[RunFacts]) -> list[Row]:
    def count(value: int | None) -> str:
        return ABSENT if value is None else f"{value:,}"

    rows = [
        Row("size", "parameters", tuple(count(run.parameters) for run in runs)),
        Row("size", "steps", tuple(count(run.steps) for run in runs)),
        Row("size", "tokens", tuple(count(run.tokens) for run in runs)),
        Row("size", "dataset", tuple((run.dataset or ABSENT)[:12] for run in runs)),
    ]
    if any(run.parent for run in runs):
        parents = tuple((run.parent or ABSENT).rpartition("/")[2] for run in runs)
        rows.append(Row("size", "made after", parents))
    return rows


def _compare_times(runs: Sequence[RunFacts]) -> list[Row]:
    def tell(read: Callable[[Usage], str]) -> tuple[str, ...]:
        usages = [run.place.usage for run in runs]
        return tuple(ABSENT if usage is None else read(usage) for usage in usages)

    def amount(values: Sequence[float | None]) -> tuple[str, ...]:
        return tuple(ABSENT if value is None else f"{value:.3g}" for value in values)

    rows = [
        Row("time", "training", tell(lambda usage: format_duration(usage.training_seconds))),
        Row("time", "with machines", tell(lambda usage: format_duration(usage.held_seconds))),
        Row("time", "goodput", tell(_format_goodput)),
    ]
    energy, costs = ([run.place.kilowatt_hours for run in runs], [run.place.cost for run in runs])
    if any(value is not None for value in energy):
        rows.append(Row("time", "kWh", amount(energy)))
    if any(value is not None for value in costs):
        rows.append(Row("time", "cost", amount(costs)))
    return rows


def _format_goodput(usage: Usage) -> str:
    return ABSENT if usage.goodput_percent is None else f"{usage.goodput_percent} %"


def _cut(value: str) -> str:
    is_short = len(value) <= SHOWN_VALUE_CHARACTERS
    return value if is_short else value[: SHOWN_VALUE_CHARACTERS - 1] + "…"
