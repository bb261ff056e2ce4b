"""`llmtrain next`: the manifest of the run that comes after one that was evaluated.

Below: the trainer's command of that name, which reads the findings and writes lists to the store:
the operator knows no store; `manifest_text` writes. Above: the command line.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import click
from pydantic import ValidationError

from llmtrain_api import LLMTrainingJob
from llmtrain_api.base import MAX_NAME_CHARACTERS
from llmtrain_api.findings import Change
from llmtrain_api.naming import PARENT_ANNOTATION
from llmtrain_api.run import RunPlace
from llmtrain_operator.cli.machine import TRAINER_MODULES, require_packages
from llmtrain_operator.cli.manifest import Location
from llmtrain_operator.cli.manifest_text import parse_path, write_manifest

NUMBERED = re.compile(r"(.*)-(\d+)")


def ask_changes(place: RunPlace, *, min_confidence: float, keeps_training: bool) -> list[Change]:
    """Return what the trainer would change of a run; lists that this names are in the store then.

    Args:
        place: the run.
        min_confidence: findings about single documents that are less sure are left out.
        keeps_training: whether only the data is changed.

    Raises:
        click.ClickException: there is no such run, or the trainer's packages are not installed.
    """
    require_packages(TRAINER_MODULES, extra="trainer")
    command = [sys.executable, "-m", "llmtrain_trainer", "next"]
    command += ["--min-confidence", repr(min_confidence)]
    command += ["--keep-training"] if keeps_training else []
    told = json.dumps([place.dump()])
    done = subprocess.run(command, input=told, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise click.ClickException(done.stdout.strip())
    return [Change.model_validate(item) for item in json.loads(done.stdout)]


def write_next(
    parent: LLMTrainingJob, place: RunPlace, changes: Sequence[Change], name: str | None = None
) -> str:
    """Return the manifest of the next job, with the reason of each change as a comment.

    Args:
        parent: the job of the run.
        place: the run.
        changes: at least one.
        name: of the next job; None: the parent's with the next number.

    Raises:
        click.ClickException: the changes do not go together with what the parent asks for.
    """
    data = parent.model_dump(by_alias=True, exclude_none=True, exclude={"status"})
    annotations = {**parent.metadata.annotations, PARENT_ANNOTATION: place.uri}
    data["metadata"] = {
        "name": name or name_successor(parent.metadata.name),
        "namespace": parent.metadata.namespace,
        "labels": parent.metadata.labels,
        "annotations": annotations,
    }
    reasons: list[tuple[Location, str]] = []
    for change in changes:
        location = ("spec", *parse_path(change.path))
        set_field(data, location, change.value)
        reasons.append((location, change.reason))
    try:
        job = LLMTrainingJob.model_validate(data)
    except ValidationError as error:
        raise click.ClickException(f"what the findings ask for cannot be: {error}") from None
    return write_manifest(job, reasons)


def name_successor(name: str) -> str:
    """Return the name of the job after one: job-2 after job, job-3 after job-2."""
    numbered = NUMBERED.fullmatch(name)
    stem, number = (numbered[1], int(numbered[2])) if numbered else (name, 1)
    ending = f"-{number + 1}"
    return stem[: MAX_NAME_CHARACTERS - len(ending)] + ending


def set_field(data: dict[str, Any], location: Location, value: Any) -> None:
    """Set what is at a location of nested data, whose parents exist."""
    *parents, last = location
    target: Any = data
    for part in parents:
        target = target[part]
    target[last] = value
