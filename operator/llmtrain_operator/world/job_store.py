"""The jobs as last heard of, parsed once for each version.

Below: the contract. Above: the handlers feed it, `cluster` reads it and feeds it what it wrote.
A stale job is harmless: the status is written against the version that was read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from llmtrain_api import JobStatus, LLMTrainingJob
from llmtrain_operator.metrics import JOBS


class UnreadableJobError(Exception):
    """A stored job does not follow the definition that this operator knows."""


class JobStore:
    """Jobs by key, `namespace/name`."""

    def __init__(self) -> None:
        """Begin empty: the first list of the watch fills it."""
        self._jobs: dict[str, LLMTrainingJob | UnreadableJobError] = {}
        self._phases: Counter[tuple[str, str]] = Counter()

    def find(self, key: str) -> LLMTrainingJob | None:
        """Return a job, if it exists.

        Raises:
            UnreadableJobError: it exists and cannot be read.
        """
        job = self._jobs.get(key)
        if isinstance(job, UnreadableJobError):
            raise job
        return job

    def list_keys(self) -> Iterator[str]:
        """Yield every key."""
        yield from tuple(self._jobs)

    def list_jobs(self) -> Iterator[LLMTrainingJob]:
        """Yield every job that can be read; also from another thread."""
        yield from (job for job in tuple(self._jobs.values()) if isinstance(job, LLMTrainingJob))

    def note(self, body: dict[str, Any]) -> bool:
        """Take in a job as the API shows it; tell whether that was news."""
        metadata = body["metadata"]
        key = f"{metadata['namespace']}/{metadata['name']}"
        known = self._jobs.get(key)
        if isinstance(known, LLMTrainingJob):
            is_same = known.metadata.uid == metadata["uid"]
            if is_same and _order(known) >= int(metadata["resourceVersion"]):
                return False
        try:
            self._put(key, LLMTrainingJob.read_lenient(body))
        except ValidationError as error:
            self._put(key, UnreadableJobError(f"{key} does not follow the definition: {error}"))
        return True

    def note_status(self, job: LLMTrainingJob, status: JobStatus, version: str) -> None:
        """Take in a status that was written, so that the next pass starts from it."""
        metadata = job.metadata.model_copy(update={"resource_version": version})
        known = self._jobs.get(job.key)
        if isinstance(known, LLMTrainingJob) and _order(known) < int(version):
            self._put(job.key, job.model_copy(update={"metadata": metadata, "status": status}))

    def drop(self, key: str, uid: str) -> None:
        """Take in that a job is no more, unless another has taken its name."""
        known = self._jobs.get(key)
        if isinstance(known, LLMTrainingJob) and known.metadata.uid != uid:
            return
        if known is not None:
            self._put(key, None)

    def _put(self, key: str, job: LLMTrainingJob | UnreadableJobError | None) -> None:
        namespace = key.split("/")[0]
        before = self._jobs.pop(key, None)
        for entry, step in ((before, -1), (job, 1)):
            if entry is not None:
                phase = (namespace, _name_phase(entry))
                self._phases[phase] += step
                JOBS.labels(*phase).set(self._phases[phase])
        if job is not None:
            self._jobs[key] = job


def _order(job: LLMTrainingJob) -> int:
    return int(job.metadata.resource_version)


def _name_phase(job: LLMTrainingJob | UnreadableJobError) -> str:
    if isinstance(job, UnreadableJobError):
        return "Unreadable"
    return job.status.phase.value if job.status.phase is not None else "New"
