"""Numbers of workers that may change: what a job allows, and how many there are.

Below: `base`. Above: `workers` embeds the first in `spec.workers`, `status` the second; the
operator's `plan.resizing` decides by the one and writes the other. `kubectl scale` reads and writes
`spec.workers.replicas` and `status.size` (see `schema`).
"""

from __future__ import annotations

from pydantic import Field

from llmtrain_api.base import Model


class ElasticSpec(Model):
    """Training with fewer workers where there is no room for all, and with others on request.

    The global batch stays what it is: allowed are the numbers of workers whose ranks divide it.
    """

    min_replicas: int = Field(default=1, ge=1, le=10_000)
    """Fewest workers that may train."""

    grace_seconds: int = Field(default=120, ge=1, le=86_400)
    """How long a worker may find no place before the others go on without it."""

    snooze_seconds: int = Field(default=600, ge=1, le=86_400)
    """How long after a change, or after room was found for some only, more workers are tried
    again."""


class SizeStatus(Model):
    """How many workers train together, where that may change (workers.elastic)."""

    workers: int = Field(ge=1)
    """Workers that train together now, or that come next."""

    wanted: int = Field(ge=1)
    """What workers.replicas asked for when this was last decided."""

    reason: str = Field(max_length=128)
    """Why there are so many, as one CamelCase word: AsAsked or NoRoom."""

    message: str = Field(default="", max_length=1024)
    """Why, for people."""

    since: str
    """When that was decided (RFC 3339, UTC)."""

    tries_more_at: str | None = None
    """More workers are not tried before then (RFC 3339, UTC)."""

    selector: str = Field(default="", max_length=512)
    """Labels of the pods, for autoscalers."""
