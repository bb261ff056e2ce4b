"""What is kept of a document beside its tokens.

Below: nothing. Above: `preparation` finds it, `shards` stores it, evaluations read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Facts:
    """What a record says of its text. Empty: nothing."""

    label: str = ""
    language: str = ""
    id: str = ""

    source: int = 0
    """Index of its source in the recipe; known where it is stored."""

    labels: tuple[str, ...] = ()
    """Its labels, sorted, where documents have any number of them; `label` is empty then."""

    digest: str = ""
    """Of its text as it was read, by `digest_text`; known where it is stored."""

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> Self:
        """Make them of JSON, which has no tuples."""
        return cls(**{**data, "labels": tuple(data.get("labels", ()))})


NO_FACTS = Facts()
