"""`llmtrain data`: datasets made by hand, explained and compared, and who used a source.

Below: the trainer's command of that name, in a process of its own: the operator knows no store.
Above: `data_commands`, and the command `learning-rate`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click

from llmtrain_api import LLMTrainingJob
from llmtrain_api.naming import locate_dataset
from llmtrain_api.run import Rendezvous, StorageConfig
from llmtrain_operator.cli.checkpoints import describe_storage, find_local_run
from llmtrain_operator.cli.machine import TRAINER_MODULES, require_packages
from llmtrain_operator.plan.run_config import build_run_config

FINGERPRINT = re.compile(r"[0-9a-f]{32}")

MAX_PREFIX_PARTS = 4
"""A dataset is looked for below storage URIs of at most so many parts, the bucket included."""

BY_HAND = "by-hand"
"""Prefix of the records of what was prepared by hand: such data belongs to no run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a run or a dataset lies, and how its store is reached."""

    uri: str
    storage: StorageConfig


def find_place(
    dataset: str,
    namespace: str,
    store: Path,
    endpoint: str | None = None,
    credentials: Path | None = None,
    ca_file: Path | None = None,
) -> Place:
    """Return where a dataset lies, or the run that uses it.

    Args:
        dataset: name of a job that ran or was prepared here, fingerprint in the local store, or
            s3:// URI.
        namespace: of the job.
        store: folder that takes the store's place, for names and fingerprints.
        endpoint: S3 server, for URIs; None: AWS.
        credentials: folder with accessKey and secretKey, for URIs.
        ca_file: authority of the endpoint.

    Raises:
        click.ClickException: there is no such job or dataset.
    """
    if dataset.startswith("s3://"):
        return Place(uri=dataset, storage=describe_storage(dataset, endpoint, credentials, ca_file))
    if FINGERPRINT.fullmatch(dataset):
        return _find_prepared(dataset, store)
    try:
        uri, storage = find_local_run(dataset, namespace, store)
    except click.ClickException:
        if (by_hand := _find_by_hand(dataset, namespace, store)) is None:
            raise
        return by_hand
    return Place(uri=uri, storage=storage)


def prepare_data(job: LLMTrainingJob, store: Path) -> int:
    """Let the trainer prepare the data of a job in a folder; return its exit code.

    Raises:
        click.ClickException: the trainer's packages are not installed.
    """
    return call_by_hand(job, store, "data", "prepare")


def try_learning_rates(job: LLMTrainingJob, store: Path, *, steps: int, as_json: bool) -> int:
    """Let the trainer do a job's first steps at ever higher rates; return its exit code.

    Raises:
        click.ClickException: the trainer's packages are not installed.
    """
    options = ["--steps", str(steps), *(["--json"] if as_json else [])]
    return call_by_hand(job, store, "learning-rate", *options)


def call_by_hand(job: LLMTrainingJob, store: Path, *command: str) -> int:
    """Call the trainer for a job that is not run, with a folder as the store."""
    require_packages(TRAINER_MODULES, extra="trainer")
    storage = StorageConfig(uri=job.spec.storage.uri, local_root=str(store.absolute()))
    config = build_run_config(job, storage=storage, rendezvous=Rendezvous(leader_host="127.0.0.1"))
    run_uri = f"{storage.uri.rstrip('/')}/{BY_HAND}/{job.metadata.namespace}/{job.metadata.name}"
    config = config.model_copy(update={"run_uri": run_uri})
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(config.dump(), file)
        file.flush()
        called = [sys.executable, "-m", "llmtrain_trainer", *command, "--config", file.name]
        return subprocess.run(called, check=False).returncode


def inspect_dataset(place: Place) -> int:
    """Let the trainer print what a dataset was made of; return its exit code.

    Raises:
        click.ClickException: the trainer's packages are not installed.
    """
    return _call("inspect", place)


def find_report(place: Place, output: Path | None, *, is_opened: bool) -> int:
    """Print where the page of a dataset is, and show it; return the trainer's exit code.

    Raises:
        click.ClickException: the trainer's packages are not installed.
    """
    arguments = [] if output is None else ["--output", str(output)]
    return _call("report", place, *arguments, *(["--open"] if is_opened else []))


def compare_datasets(place: Place, other: Place) -> int:
    """Let the trainer print what differs between two datasets; return its exit code.

    Raises:
        click.ClickException: the trainer's packages are not installed.
    """
    storage = json.dumps(other.storage.dump())
    return _call("diff", place, "--other", other.uri, "--other-storage", storage)


def trace_use(place: Place, what: str, value: str) -> int:
    """Let the trainer print who in a storage used a source or document; return its exit code.

    Args:
        place: in the storage.
        what: source or document.
        value: names it.

    Raises:
        click.ClickException: the trainer's packages are not installed.
    """
    storage = Place(uri=place.storage.uri, storage=place.storage)
    return _call("lineage", storage, f"--{what}", value)


def _find_by_hand(name: str, namespace: str, store: Path) -> Place | None:
    """Return where the record of a job lies whose data was prepared in a folder, if it was."""
    for depth in range(1, MAX_PREFIX_PARTS + 1):
        pattern = "*/" * depth + f"{BY_HAND}/{namespace}/{name}/dataset.json"
        for path in sorted(store.glob(pattern)):
            prefix = path.parents[3].relative_to(store).as_posix()
            storage = StorageConfig(uri=f"s3://{prefix}", local_root=str(store.absolute()))
            return Place(uri=f"{storage.uri}/{BY_HAND}/{namespace}/{name}", storage=storage)
    return None


def _find_prepared(fingerprint: str, store: Path) -> Place:
    """Return where a dataset of a folder lies."""
    for depth in range(1, MAX_PREFIX_PARTS + 1):
        for path in sorted(store.glob("*/" * depth + f"datasets/{fingerprint}/manifest.json")):
            prefix = path.parents[2].relative_to(store).as_posix()
            storage = StorageConfig(uri=f"s3://{prefix}", local_root=str(store.absolute()))
            return Place(uri=locate_dataset(storage.uri, fingerprint), storage=storage)
    raise click.ClickException(
        f"no dataset {fingerprint} in {store}; say where it is by --store, or give its s3:// URI"
    )


def _call(action: str, place: Place, *arguments: str) -> int:
    require_packages(TRAINER_MODULES, extra="trainer")
    command = [sys.executable, "-m", "llmtrain_trainer", "data", action, "--uri", place.uri]
    command += ["--storage", json.dumps(place.storage.dump()), *arguments]
    return subprocess.run(command, check=False).returncode
