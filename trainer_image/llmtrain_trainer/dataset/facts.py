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


NO_FACTS = Facts()
