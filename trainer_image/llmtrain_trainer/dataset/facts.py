"""What is kept of a document beside its tokens.

Below: nothing. Above: `preparation` finds it, `shards` stores it, evaluations read it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Facts:
    """What a record says of its text. Empty: nothing."""

    label: str = ""
    language: str = ""
    id: str = ""

    source: int = 0
    """Index of its source in the recipe; known where it is stored."""

    digest: str = ""
    """Of its text as it was read, by `digest_text`; known where it is stored."""


NO_FACTS = Facts()
