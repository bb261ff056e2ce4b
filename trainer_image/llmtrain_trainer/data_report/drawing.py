"""Charts of a dataset as SVG elements; the same numbers give the same text.

Below: matplotlib. Above: `page`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import matplotlib
from matplotlib.figure import Figure

from llmtrain_trainer.data_report.record import PartRecord, Point
from llmtrain_trainer.dataset.step_record import StepRecord

KEPT_COLOUR = "#1f5fa8"
LEFT_OUT_COLOUR = "#e3b08f"
COLOURS = (
    "#1f5fa8", "#c4510a", "#2b8a4b", "#8b4fa8", "#b8860b", "#0f8a94", "#a83246", "#5b6675",
    "#9aa5b1",
)  # fmt: skip
"""Of kinds, the last one for all others."""

PART_COLOURS = {"train": "#1f5fa8", "validation": "#c4510a", "test": "#2b8a4b"}
BAR_INCHES = 0.32
SHOWN_BARS = 20


class Chart:
    """A figure that becomes SVG."""

    def __init__(self, figure: Figure) -> None:
        """Draw on `figure`."""
        self.figure = figure
        self.svg = ""


@contextmanager
def open_chart(width: float, height: float) -> Iterator[Chart]:
    """Give a figure of so many inches; its `svg` is set when the block ends."""
    with matplotlib.rc_context({"svg.hashsalt": "llmtrain", "font.size": 10}):
        chart = Chart(Figure(figsize=(width, height), layout="constrained"))
        yield chart
        text = io.StringIO()
        chart.figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    chart.svg = svg[svg.index("<svg") :]


def draw_flow(steps: Sequence[StepRecord]) -> str:
    """Return bars of the documents that each step let pass and left out."""
    names = [step.step for step in steps]
    kept = [step.documents_out for step in steps]
    # A step that adds documents leaves none out.
    lost = [max(0, step.documents_in - step.documents_out) for step in steps]
    with open_chart(8.0, 0.8 + BAR_INCHES * len(steps)) as chart:
        axes = chart.figure.subplots()
        axes.barh(names, kept, color=KEPT_COLOUR, label="kept")
        axes.barh(names, lost, left=kept, color=LEFT_OUT_COLOUR, label="left out")
        most = max(k + lo for k, lo in zip(kept, lost, strict=True))
        for place, (k, lo) in enumerate(zip(kept, lost, strict=True)):
            said = f"{k:,}" if lo == 0 else f"{k:,}  (−{lo:,})"
            axes.text((k + lo) + most * 0.01, place, said, va="center", fontsize=9)
        axes.set_xlim(0, most * 1.2)
        axes.invert_yaxis()
        axes.set_xlabel("documents")
        axes.spines[["top", "right"]].set_visible(False)
        if any(lost):
            chart.figure.legend(frameon=False, loc="outside upper right", ncols=2)
    return chart.svg


def draw_lengths(parts: Sequence[PartRecord]) -> str:
    """Return how many documents there are of each length, as shares of their part."""
    with open_chart(8.0, 3.2) as chart:
        axes = chart.figure.subplots()
        for part in parts:
            histogram = part.token_lengths.histogram
            first, last = min(histogram), max(histogram)
            edges = [first]
            while edges[-1] <= last:
                edges.append(edges[-1] * 2)
            shares = [histogram.get(edge, 0) / max(part.documents, 1) for edge in edges[:-1]]
            axes.stairs(
                shares, edges, color=PART_COLOURS[part.name], label=part.name, linewidth=1.6
            )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_ylim(bottom=0.0)
        axes.set_xlabel("tokens of a document, end of text included")
        axes.set_ylabel("share of documents")
        axes.grid(visible=True, linewidth=0.4, alpha=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    return chart.svg


def draw_counts(counts: Mapping[str, int], unit: str) -> str:
    """Return one bar for each name, the longest first."""
    shown = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_BARS]
    total = max(sum(counts.values()), 1)
    with open_chart(8.0, 0.8 + BAR_INCHES * len(shown)) as chart:
        axes = chart.figure.subplots()
        # By number, since names may be equal once they are cut.
        places = range(len(shown))
        axes.barh(places, [count for _, count in shown], color=KEPT_COLOUR)
        axes.set_yticks(places, [_cut(name) for name, _ in shown])
        for place, (_, count) in enumerate(shown):
            axes.text(count, place, f" {count:,} ({count / total:.1%})", va="center", fontsize=9)
        axes.set_xlim(0, max(1, shown[0][1]) * 1.25)
        axes.invert_yaxis()
        axes.set_xlabel(unit)
        axes.spines[["top", "right"]].set_visible(False)
    return chart.svg


def draw_maps(points: Sequence[Point]) -> str:
    """Return both maps beside each other, with a colour for each kind of points."""
    kinds = sorted({point.kind for point in points}, key=lambda kind: _rank(kind, points))
    with open_chart(8.0, 4.4) as chart:
        left, right = chart.figure.subplots(1, 2)
        for axes, title in ((left, "PCA"), (right, "t-SNE")):
            for kind, colour in zip(kinds, COLOURS, strict=False):
                places = [
                    point.pca if axes is left else point.tsne
                    for point in points
                    if point.kind == kind
                ]
                x, y = zip(*places, strict=True)
                axes.scatter(x, y, s=9, color=colour, linewidths=0, alpha=0.75, label=_cut(kind))
            axes.set_title(title, fontsize=10)
            axes.set_xticks([])
            axes.set_yticks([])
        if len(kinds) > 1:
            handles, labels = left.get_legend_handles_labels()
            chart.figure.legend(
                handles, labels, frameon=False, loc="outside lower center", ncols=3, markerscale=2
            )
    return chart.svg


def _rank(kind: str, points: Sequence[Point]) -> tuple[bool, int, str]:
    return kind == "others", -sum(point.kind == kind for point in points), kind


def _cut(name: str, characters: int = 36) -> str:
    """Return the end of a long name, which tells URIs apart; $ would begin a formula."""
    short = name if len(name) <= characters else "…" + name[-characters + 1 :]
    return short.replace("$", r"\$")
