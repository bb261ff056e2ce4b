"""What a step of the recipe looks like that treats each document for itself.

Below: nothing. Above: `normalize`, `selection`, `quality` and `privacy` are such steps; `refine`
puts them in order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class CountRule(Protocol):
    """Counts that a rule applied to the document at hand."""

    def __call__(self, rule: str, measure: str = "", *, times: int = 1) -> None:
        """Count it; `measure` is what was found, and holds no text of the document."""


@dataclass(frozen=True, slots=True)
class Step:
    """A named step."""

    name: str

    apply: Callable[[str, CountRule], str | None]
    """Returns a document's text as it is to be, or None where the document is left out."""
