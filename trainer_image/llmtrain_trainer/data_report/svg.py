"""An SVG element, put together from lines, bars, points and words.

Below: nothing. Above: `drawing`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

WIDTH = 800
"""Of every drawing, in its own units; a page scales it to its own width."""

SIZE, SMALL = 14, 12.5
"""Of letters."""

INK, GREY = "#1c2430", "#c9d1da"
LEGEND_COLUMNS = 3
LEGEND_STEP = 22


class Drawing:
    """Grows by what is added, the first thing lowest."""

    def __init__(self, height: float) -> None:
        """Begin a drawing `height` high."""
        self._height = height
        self._parts: list[str] = []

    def add_text(
        self, x: float, y: float, text: str, *, anchor: str = "start", size: float = SIZE
    ) -> None:
        """Add words whose line begins at a place, or ends there (end), or has its middle there."""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
            f' fill="{INK}">{escape(text)}</text>'
        )

    def add_bar(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """Add a filled rectangle."""
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
            f' fill="{colour}"/>'
        )

    def add_frame(self, x: float, y: float, width: float, height: float) -> None:
        """Add the edge of a rectangle."""
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
            f' fill="none" stroke="{GREY}"/>'
        )

    def add_line(
        self, corners: Sequence[tuple[float, float]], colour: str, *, width: float
    ) -> None:
        """Add a line through several places."""
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        self._parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
        )

    def add_point(self, x: float, y: float, radius: float, colour: str) -> None:
        """Add a point through which others can be seen."""
        self._parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}" fill-opacity="0.7"/>'
        )

    def add_legend(self, colours: Mapping[str, str], left: float, top: float) -> None:
        """Add what each colour stands for, in columns."""
        step = (WIDTH - left) / LEGEND_COLUMNS
        for number, (name, colour) in enumerate(colours.items()):
            row, column = divmod(number, LEGEND_COLUMNS)
            x, y = left + step * column, top + LEGEND_STEP * row
            self.add_bar(x, y - 10, 12, 12, colour)
            self.add_text(x + 18, y, name, size=SMALL)

    def finish(self, title: str) -> str:
        """Return the element; `title` is what is read to those who cannot see it."""
        return "\n".join(
            [
                f'<svg viewBox="0 0 {WIDTH} {self._height:.0f}" role="img"'
                f' aria-label="{escape(title)}" font-family="system-ui, sans-serif">',
                *self._parts,
                "</svg>",
            ]
        )
