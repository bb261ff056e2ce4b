"""A world is where processes live: `cluster` (pods) or `local` (processes on one machine).

Below: `kube` and the operating system. Above: `reconcile`, which is the same for both.
A world observes and applies; it decides nothing.
"""

from __future__ import annotations

from typing import Protocol

from llmtrain_api import JobStatus, LLMTrainingJob
from llmtrain_operator.plan.types import Event, Observed, Plan


class ConflictError(Exception):
    """The job changed since it was read: read it again and decide again."""


class World(Protocol):
    """What `reconcile` needs of the place where jobs run."""

    async def read_job(self, key: str) -> LLMTrainingJob | None:
        """Return the job `namespace/name`, or None where it is gone or being deleted."""

    async def observe(self, job: LLMTrainingJob) -> Observed:
        """Return the job's own processes and what they say of themselves."""

    async def apply(self, job: LLMTrainingJob, plan: Plan) -> tuple[str, ...]:
        """Start and remove processes. Return why the platform refused some, in its words."""

    async def write_status(self, job: LLMTrainingJob, status: JobStatus) -> None:
        """Replace the job's status.

        Raises:
            ConflictError: the job changed since `read_job`.
        """

    async def publish(self, job: LLMTrainingJob, events: tuple[Event, ...]) -> None:
        """Tell people."""
