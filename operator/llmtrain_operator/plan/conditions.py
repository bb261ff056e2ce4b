"""Conditions of the status, in the form that kstatus (Flux) and Argo CD read rightly.

Below: the contract. Above: `status`.

A fresh job must not read as ready and a failed one not as current. kstatus looks at
`Reconciling` and `Stalled` before anything else, Argo CD at `Succeeded`; so the three always
tell the same story.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from llmtrain_api.status import Condition, ConditionType

MAX_MESSAGE_CHARACTERS = 2048

Truth = Literal["True", "False", "Unknown"]


def format_time(moment: datetime) -> str:
    """Write a moment as RFC 3339 in UTC with whole seconds, as Kubernetes does."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """Read a moment as Kubernetes writes it."""
    return datetime.fromisoformat(text)


class ConditionSet:
    """The conditions of one status while it is computed."""

    def __init__(self, before: list[Condition], now: datetime, generation: int) -> None:
        """Start from the conditions of the last status."""
        self._conditions = {condition.type: condition for condition in before}
        self._now = format_time(now)
        self._generation = generation

    def set(self, kind: ConditionType, status: Truth, reason: str, message: str = "") -> None:
        """State a condition; the transition time changes only where the status does."""
        before = self._conditions.get(kind)
        since = before.last_transition_time if before and before.status == status else self._now
        self._conditions[kind] = Condition(
            type=kind,
            status=status,
            reason=reason,
            message=message[:MAX_MESSAGE_CHARACTERS],
            last_transition_time=since,
            observed_generation=self._generation,
        )

    def set_default(self, kind: ConditionType, reason: str) -> None:
        """State a condition as Unknown, where nothing has been said of it yet."""
        if kind not in self._conditions:
            self.set(kind, "Unknown", reason)

    def list_all(self) -> list[Condition]:
        """Return the conditions in the order of their declaration."""
        return [self._conditions[kind] for kind in ConditionType if kind in self._conditions]
