"""Names that follow from a job: its children, its place in the store. All deterministic.

Deterministic names make a repeated create harmless (409 means it is there already) and let
the operator forget everything: what should exist can be named from the spec and the status.
"""

from __future__ import annotations

from llmtrain_api.base import GROUP
from llmtrain_api.records import Stage

JOB_LABEL = f"{GROUP}/job"
STAGE_LABEL = f"{GROUP}/stage"
"""Labels by which the pods of a job, and of one of its stages, are found."""

PARENT_ANNOTATION = f"{GROUP}/parent"
"""On a job: the URI of the run that it was made after, as `llmtrain next` writes it."""

UID_CHARACTERS = 8
"""Characters of the uid in a run's prefix: enough to tell runs of one name apart."""


def name_process(job: str, stage: Stage, index: int, incarnation: int) -> str:
    """Name one incarnation of one worker: the pod's name."""
    return f"{job}-{stage}-{index}-{incarnation}"


def name_worker(job: str, stage: Stage, index: int) -> str:
    """Name a worker whatever its incarnation: the pod's host name."""
    return f"{job}-{stage}-{index}"


def name_service(job: str, stage: Stage) -> str:
    """Name the headless Service under which the workers of a stage find each other."""
    return f"{job}-{stage}"


def name_selector(job: str, stage: Stage) -> str:
    """Name the pods of a stage as `kubectl get pods --selector` takes it."""
    return f"{JOB_LABEL}={job},{STAGE_LABEL}={stage}"


def name_config(job: str) -> str:
    """Name the ConfigMap that holds the job's RunConfig."""
    return f"{job}-run"


def locate_run(storage_uri: str, namespace: str, name: str, uid: str) -> str:
    """Return the URI under which a run keeps checkpoints, export and evaluation."""
    return f"{storage_uri.rstrip('/')}/runs/{namespace}/{name}-{uid[:UID_CHARACTERS]}"


def locate_dataset(storage_uri: str, fingerprint: str) -> str:
    """Return the URI of prepared data."""
    return f"{storage_uri.rstrip('/')}/datasets/{fingerprint}"
