"""Charts of a dataset as SVG elements; the same numbers give the same text.

Below: `svg`. Above: `page`.

They are written as text because a dataset's report is made while training waits: by matplotlib the
same charts took a second of processor time, half of it for the import, which was more than all else
in the preparation of a small dataset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmtrain_trainer.data_report.record import PartRecord, Point
from llmtrain_trainer.data_report.svg import GREY, SMALL, WIDTH, Drawing
from llmtrain_trainer.dataset.step_record import StepRecord

KEPT_COLOUR = "#1f5fa8"
LEFT_OUT_COLOUR = "#e3b08f"
COLOURS = (
    "#1f5fa8", "#c4510a", "#2b8a4b", "#8b4fa8", "#b8860b", "#0f8a94", "#a83246", "#5b6675",
    "#9aa5b1",
)  # fmt: skip
"""Of kinds, the last one for all others."""

PART_COLOURS = {"train": "#1f5fa8", "validation": "#c4510a", "test": "#2b8a4b"}
SHOWN_BARS = 20
NAME_CHARACTERS = 32

BAR_LEFT = 270.0
BAR_RIGHT = 640.0
"""Where the longest bar ends; behind it is room for what is said of it."""

BAR_HEIGHT = 20.0
BAR_STEP = 28.0
ROW_HEIGHT = 22.0

PLOT_LEFT, PLOT_RIGHT, PLOT_TOP, PLOT_BOTTOM = 60.0, 760.0, 30.0, 220.0
SHARE_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25)
"""Between two lines of the grid; the first that needs few lines is taken."""

MAX_GRID_LINES = 6
MAX_TICKS = 13
MAP_SIZE = 370.0
POINT_RADIUS = 3.2


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of a bar chart."""

    name: str
    kept: int
    lost: int
    said: str


def draw_flow(steps: Sequence[StepRecord]) -> str:
    """Return bars of the documents that each step let pass and left out."""
    bars = []
    for step in steps:
        # A step that adds documents leaves none out.
        lost = max(0, step.documents_in - step.documents_out)
        said = f"{step.documents_out:,}" + (f"  (−{lost:,})" if lost else "")
        bars.append(Bar(step.step, step.documents_out, lost, said))
    return _draw_bars(bars, "documents")


def draw_counts(counts: Mapping[str, int], unit: str) -> str:
    """Return one bar for each name, the longest first."""
    shown = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_BARS]
    total = max(sum(counts.values()), 1)
    bars = [Bar(name, n, 0, f"{n:,} ({n / total:.1%})") for name, n in shown]
    return _draw_bars(bars, unit)


def draw_lengths(parts: Sequence[PartRecord]) -> str:
    """Return how many documents there are of each length, as shares of their part."""
    exponents = [n.bit_length() - 1 for part in parts for n in part.token_lengths.histogram]
    first, last = min(exponents), max(exponents) + 1
    shares = {
        part.name: [
            part.token_lengths.histogram.get(2**exponent, 0) / max(part.documents, 1)
            for exponent in range(first, last)
        ]
        for part in parts
    }
    most = max(max(of_part) for of_part in shares.values())
    drawing = Drawing(PLOT_BOTTOM + 50)

    def place(exponent: int, share: float) -> tuple[float, float]:
        x = PLOT_LEFT + (PLOT_RIGHT - PLOT_LEFT) * (exponent - first) / (last - first)
        return x, PLOT_BOTTOM - (PLOT_BOTTOM - PLOT_TOP) * share / most

    step = next((s for s in SHARE_STEPS if most / s <= MAX_GRID_LINES), SHARE_STEPS[-1])
    for number in range(int(most / step) + 1):
        _, y = place(first, number * step)
        drawing.add_line([(PLOT_LEFT, y), (PLOT_RIGHT, y)], GREY, width=0.6)
        drawing.add_text(PLOT_LEFT - 8, y + 4, f"{number * step:.0%}", anchor="end", size=SMALL)
    for exponent in range(first, last + 1, 1 + (last - first) // MAX_TICKS):
        x, _ = place(exponent, 0.0)
        drawing.add_text(x, PLOT_BOTTOM + 18, f"{2**exponent:,}", anchor="middle", size=SMALL)
    for name, of_part in shares.items():
        corners = [place(first, 0.0)]
        for number, share in enumerate(of_part):
            corners += [place(first + number, share), place(first + number + 1, share)]
        drawing.add_line([*corners, place(last, 0.0)], PART_COLOURS[name], width=2.0)
    drawing.add_legend({name: PART_COLOURS[name] for name in shares}, PLOT_LEFT, 14)
    caption = "tokens of a document, end of text included; share of the documents of each part"
    drawing.add_text(WIDTH / 2, PLOT_BOTTOM + 42, caption, anchor="middle", size=SMALL)
    return drawing.finish(caption)


def draw_maps(points: Sequence[Point]) -> str:
    """Return both maps beside each other, with a colour for each kind of points."""
    kinds = sorted({point.kind for point in points}, key=lambda kind: _rank(kind, points))
    colours = dict(zip(kinds, COLOURS, strict=False))
    legend = {_cut(kind): colour for kind, colour in colours.items()} if len(kinds) > 1 else {}
    drawing = Drawing(MAP_SIZE + 40 + ROW_HEIGHT * -(-len(legend) // 3))
    maps = (("PCA", 10.0, [p.pca for p in points]), ("t-SNE", 420.0, [p.tsne for p in points]))
    for title, left, places in maps:
        drawing.add_text(left + MAP_SIZE / 2, 16, title, anchor="middle")
        drawing.add_frame(left, 24, MAP_SIZE, MAP_SIZE)
        xs, ys = (_scale([place[axis] for place in places]) for axis in (0, 1))
        for point, x, y in zip(points, xs, ys, strict=True):
            centre = (left + MAP_SIZE * x, 24 + MAP_SIZE * (1.0 - y))
            drawing.add_point(*centre, POINT_RADIUS, colours[point.kind])
    drawing.add_legend(legend, 10, MAP_SIZE + 46)
    return drawing.finish("Documents of the sample, similar ones near each other")


def _draw_bars(bars: Sequence[Bar], unit: str) -> str:
    has_lost = any(bar.lost for bar in bars)
    top = ROW_HEIGHT if has_lost else 4.0
    drawing = Drawing(top + BAR_STEP * len(bars) + ROW_HEIGHT)
    if has_lost:
        drawing.add_legend({"kept": KEPT_COLOUR, "left out": LEFT_OUT_COLOUR}, BAR_LEFT, 14)
    most = max(1, *(bar.kept + bar.lost for bar in bars))
    for number, bar in enumerate(bars):
        y = top + BAR_STEP * number
        middle = y + BAR_HEIGHT / 2 + 5
        kept, lost = ((BAR_RIGHT - BAR_LEFT) * n / most for n in (bar.kept, bar.lost))
        drawing.add_text(BAR_LEFT - 10, middle, _cut(bar.name), anchor="end")
        drawing.add_bar(BAR_LEFT, y, kept, BAR_HEIGHT, KEPT_COLOUR)
        if bar.lost:
            drawing.add_bar(BAR_LEFT + kept, y, lost, BAR_HEIGHT, LEFT_OUT_COLOUR)
        drawing.add_text(BAR_LEFT + kept + lost + 8, middle, bar.said, size=SMALL)
    bottom = top + BAR_STEP * len(bars) + 12
    drawing.add_text((BAR_LEFT + BAR_RIGHT) / 2, bottom, unit, anchor="middle", size=SMALL)
    return drawing.finish(unit)


def _rank(kind: str, points: Sequence[Point]) -> tuple[bool, int, str]:
    return kind == "others", -sum(point.kind == kind for point in points), kind


def _cut(name: str) -> str:
    """Return the end of a long name, which tells URIs apart."""
    return name if len(name) <= NAME_CHARACTERS else "…" + name[-NAME_CHARACTERS + 1 :]


def _scale(values: Sequence[float]) -> list[float]:
    """Return values between 0.03 and 0.97, so that no point lies on the frame."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return [0.03 + 0.94 * (value - low) / span for value in values]
