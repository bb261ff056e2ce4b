"""What training steps were like, as a figure: one panel for each number, over the same steps.

Below: matplotlib. Above: `report`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOUR = "#1f5fa8"
PANEL_INCHES = 1.35
WIDTH_INCHES = 8.0
PERCENT = 100.0
GIBIBYTE = float(1 << 30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One number of steps."""

    name: str
    """In points."""
    label: str
    unit: float = 1.0
    """What a point's number is divided by."""


PANELS = (
    Panel(name="learningRate", label="learning rate"),
    Panel(name="gradientNorm", label="gradient norm"),
    Panel(name="tokensPerSecond", label="tokens/s"),
    Panel(name="utilization", label="MFU (%)", unit=1.0 / PERCENT),
    Panel(name="dataShare", label="data (%)", unit=1.0 / PERCENT),
    Panel(name="deviceMemoryBytes", label="GPU (GiB)", unit=GIBIBYTE),
)


def draw_steps(
    curve: Sequence[Mapping[str, float]], pace: Sequence[Mapping[str, float]]
) -> str | None:
    """Return a panel for each number that points have, as one SVG element; None: there is none.

    The same input gives the same text.
    """
    points = [*curve, *pace]
    panels = [panel for panel in PANELS if any(panel.name in point for point in points)]
    if not panels:
        return None
    with matplotlib.rc_context({"svg.hashsalt": "llmtrain-steps", "font.size": 9}):
        size = (WIDTH_INCHES, PANEL_INCHES * len(panels))
        figure = Figure(figsize=size, layout="constrained")
        rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
        for axes, panel in zip(rows[:, 0], panels, strict=True):
            known = [point for point in points if panel.name in point]
            axes.plot(
                [point["step"] for point in known],
                [point[panel.name] / panel.unit for point in known],
                color=COLOUR,
                linewidth=1.0,
            )
            axes.set_ylabel(panel.label)
            axes.set_ylim(bottom=0.0)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(visible=True, linewidth=0.4, alpha=0.5)
            axes.spines[["top", "right"]].set_visible(False)
        rows[-1, 0].set_xlabel("step")
        figure.align_ylabels()
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
