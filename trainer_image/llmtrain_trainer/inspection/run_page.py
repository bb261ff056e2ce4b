"""Runs side by side as one HTML page that needs nothing else: their curves, and all that differs.

Below: `run_comparison`, the charts of `data_report`, the package's templates. Above:
`run_commands`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from matplotlib.ticker import MaxNLocator

from llmtrain_api.directions import is_lower_better
from llmtrain_trainer.data_report.drawing import COLOURS, open_chart
from llmtrain_trainer.inspection.run_comparison import compare_runs
from llmtrain_trainer.inspection.run_facts import RunFacts
from llmtrain_trainer.rendering import render_template
from llmtrain_trainer.training.curve import smooth

CHART_INCHES = (8.0, 4.2)
PANEL_INCHES = 3.2
MILLION, MINUTE = 1e6, 60.0


def render_comparison(
    runs: Sequence[RunFacts], metric: str | None = None, limit: float | None = None
) -> str:
    """Return the page.

    Args:
        runs: in the order of their columns.
        metric: drawn against size, time and cost, too; None: no such chart.
        limit: the worst value of the metric that is good enough, drawn as a line.
    """
    rows = compare_runs(runs)
    return render_template(
        "comparison.html.j2",
        runs=runs,
        sections=[(name, list(of_one)) for name, of_one in groupby(rows, lambda row: row.section)],
        curves_svg=draw_curves(runs) if any(run.curve for run in runs) else "",
        tradeoff_svg="" if metric is None else draw_tradeoff(runs, metric, limit),
        metric=metric,
    )


def draw_curves(runs: Sequence[RunFacts]) -> str:
    """Return the losses of all runs over the tokens that they had seen, as an SVG element.

    A thin line is the smoothed loss of training, dots are held-out losses. The horizontal axis has
    tokens, since steps of unlike batches are no common measure; steps where tokens are not known.
    """
    by_tokens = all(run.tokens_per_step for run in runs)
    with open_chart(*CHART_INCHES) as chart:
        axes = chart.figure.subplots()
        for number, run in enumerate(runs):
            scale = (run.tokens_per_step or 1) / MILLION if by_tokens else 1.0
            colour = COLOURS[number % len(COLOURS)]
            steps, losses = _read_points(run, "loss")
            axes.plot([s * scale for s in steps], smooth(losses), color=colour, linewidth=0.9)
            steps, losses = _read_points(run, "validationLoss")
            axes.plot(
                [s * scale for s in steps],
                losses,
                color=colour,
                linestyle=":",
                marker="o",
                markersize=4,
                label=_escape(run.place.name),
            )
        axes.set_xlabel("million tokens" if by_tokens else "step")
        axes.set_ylabel("loss (nats per target)")
        if not by_tokens:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=True, linewidth=0.4, alpha=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    return chart.svg


def draw_tradeoff(runs: Sequence[RunFacts], metric: str, limit: float | None) -> str:
    """Return a metric against the parameters, the time and the cost of each run, as SVG.

    A panel is left out where no run has what it shows.
    """
    wanted: list[tuple[str, Callable[[RunFacts], float | None]]] = [
        ("parameters (millions)", lambda run: run.parameters and run.parameters / MILLION),
        ("minutes with machines", _count_minutes),
        ("cost", lambda run: run.place.cost),
    ]
    panels = [(title, read) for title, read in wanted if any(read(run) for run in runs)]
    if not panels:
        return ""
    with open_chart(PANEL_INCHES * len(panels), CHART_INCHES[1] * 0.8) as chart:
        row: Any = chart.figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (title, read) in zip(row, panels, strict=True):
            for number, run in enumerate(runs):
                place, value = read(run), run.metrics.get(metric)
                if place is None or value is None:
                    continue
                axes.plot(place, value, "o", color=COLOURS[number % len(COLOURS)])
                axes.annotate(
                    _escape(run.place.name),
                    (place, value),
                    xytext=(0, 6),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                )
            if limit is not None:
                axes.axhline(limit, color="#777777", linestyle="--", linewidth=1.0)
            axes.set_xlabel(title)
            axes.margins(0.3)
            axes.grid(visible=True, linewidth=0.4, alpha=0.5)
            axes.spines[["top", "right"]].set_visible(False)
        better = "lower" if is_lower_better(metric) else "higher"
        row[0].set_ylabel(f"{metric} ({better} is better)")
    return chart.svg


def _count_minutes(run: RunFacts) -> float | None:
    return None if run.place.usage is None else run.place.usage.held_seconds / MINUTE


def _read_points(run: RunFacts, name: str) -> tuple[list[float], list[float]]:
    points = [point for point in run.curve if name in point]
    return [point["step"] for point in points], [point[name] for point in points]


def _escape(name: str) -> str:
    """Return a name for matplotlib, to which $ begins a formula."""
    return name.replace("$", r"\$")
