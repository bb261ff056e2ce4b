"""Pictures of how labels are predicted, as SVG elements; the same numbers give the same text.

Below: matplotlib, the charts of `data_report`. Above: `reporting`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmtrain_trainer.data_report.drawing import open_chart
from llmtrain_trainer.evaluation.classification.calibration import ReliabilityBin

RIGHT_COLOUR = "#1f5fa8"
IDEAL_COLOUR = "#777777"
COLOURS = "Blues"
DARK = 0.5
"""From this share on, a number in a cell is white."""

CELL_INCHES, LABEL_INCHES = 0.42, 2.0
LABEL_CHARACTERS = 24
MAX_LABELS = 15
"""More would be too small to read; then those that are missed most often are shown."""


def choose_shown_labels(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers of the labels that are shown, in their order."""
    if len(confusion) <= MAX_LABELS:
        return np.arange(len(confusion))
    wrong = confusion - np.diag(np.diagonal(confusion))
    involved = wrong.sum(axis=0) + wrong.sum(axis=1)
    return np.sort(np.argsort(-involved, kind="stable")[:MAX_LABELS])


def draw_confusion(labels: Sequence[str], confusion: NDArray[np.int64]) -> str:
    """Return how often each label was taken for each, as shares of the documents that have it.

    Args:
        labels: in their order.
        confusion: [true, predicted].
    """
    shown = choose_shown_labels(confusion)
    counts = confusion[np.ix_(shown, shown)]
    shares = counts / np.maximum(confusion.sum(axis=1)[shown][:, None], 1)
    names = [_cut(labels[number]) for number in shown]
    size = CELL_INCHES * len(shown)
    with open_chart(size + LABEL_INCHES, size + LABEL_INCHES) as chart:
        axes = chart.figure.subplots()
        axes.imshow(shares, cmap=COLOURS, vmin=0.0, vmax=1.0)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > DARK else "black"
                axes.text(
                    *(column, row, f"{count:,}"), color=colour, ha="center", va="center", fontsize=8
                )
        axes.set_xticks(range(len(shown)), names, rotation=90)
        axes.set_yticks(range(len(shown)), names)
        axes.set_xlabel("predicted")
        axes.set_ylabel("label of the data")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    return chart.svg


def draw_reliability(bins: Sequence[ReliabilityBin]) -> str:
    """Return the share that is right against how sure the model is, and how often it is so sure."""
    edges = [item.low for item in bins]
    widths = [item.high - item.low for item in bins]
    total = sum(item.documents for item in bins)
    with open_chart(8.0, 3.4) as chart:
        left, right = chart.figure.subplots(1, 2)
        left.bar(
            *(edges, [item.accuracy for item in bins], widths),
            align="edge",
            color=RIGHT_COLOUR,
            edgecolor="white",
            label="of the documents",
        )
        left.plot([0, 1], [0, 1], color=IDEAL_COLOUR, linestyle="--", linewidth=1.0, label="ideal")
        left.set_ylabel("share that is right")
        left.legend(frameon=False, loc="upper left")
        right.bar(
            *(edges, [item.documents / total for item in bins], widths),
            align="edge",
            color=RIGHT_COLOUR,
            edgecolor="white",
        )
        right.set_ylabel("share of the documents")
        for axes in (left, right):
            axes.set_xlim(0.0, 1.0)
            axes.set_ylim(0.0, 1.0)
            axes.set_xlabel("probability of the predicted label")
            axes.spines[["top", "right"]].set_visible(False)
    return chart.svg


def _cut(name: str) -> str:
    """Return the beginning of a long label; $ would begin a formula."""
    short = name if len(name) <= LABEL_CHARACTERS else name[: LABEL_CHARACTERS - 1] + "…"
    return short.replace("$", r"\$")
