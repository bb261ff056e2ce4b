"""What a case of a refused job is. Above: the tables of them, and `test_refusals`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A bad value, the field that must be blamed, and what must be said to be allowed."""

    changes: dict[str, Any]
    field: str
    server_says: str
    pydantic_says: str | None = None
    """Where its words are others."""
