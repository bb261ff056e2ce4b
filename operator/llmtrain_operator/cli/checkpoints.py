"""`llmtrain checkpoints`: list, verify, pin and prune the checkpoints of a run, in any store.

Below: the trainer's command of that name, in a process of its own: the operator knows no store.
Above: the command line.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
from pydantic import ValidationError

from llmtrain_api.run import RunConfig, StorageConfig
from llmtrain_operator.cli.machine import TRAINER_MODULES, require_packages
from llmtrain_operator.world.job_folder import JobFolder


def find_local_run(name: str, namespace: str, store: Path) -> tuple[str, StorageConfig]:
    """Return where a job of this machine keeps its run.

    Raises:
        click.ClickException: there is no such job.
    """
    folder = JobFolder(store, namespace, name)
    try:
        config = RunConfig.read_lenient(json.loads(folder.config_path.read_text("utf-8")))
    except FileNotFoundError:
        raise click.ClickException(
            f"no job {folder.key} has run in {folder.store}; for a run in another store say "
            "where it lies (status.provenance.runUri of its job) by --uri and --endpoint"
        ) from None
    return config.run_uri, config.storage


def describe_storage(
    uri: str, endpoint: str | None, credentials: Path | None, ca_file: Path | None
) -> StorageConfig:
    """Return how a store is reached that no job of this machine describes.

    Raises:
        click.BadParameter: the URI is none of an S3 store.
    """
    try:
        return StorageConfig(
            uri=uri,
            endpoint=endpoint,
            credentials_directory=str(credentials) if credentials else None,
            ca_file=str(ca_file) if ca_file else None,
        )
    except ValidationError as error:
        said = error.errors()[0]["msg"]
        raise click.BadParameter(f"{uri}: {said}", param_hint="--uri") from None


def handle_checkpoints(
    action: str,
    run_uri: str,
    storage: StorageConfig,
    *,
    keep_last: int = 1,
    refused: bool = False,
    step: int | None = None,
) -> int:
    """Let the trainer do it, and return its exit code.

    Raises:
        click.ClickException: the trainer's packages are not installed.
    """
    require_packages(TRAINER_MODULES, extra="trainer")
    command = [
        sys.executable, "-m", "llmtrain_trainer", "checkpoints", action,
        "--run-uri", run_uri,
        "--storage", json.dumps(storage.dump()),
        "--keep-last", str(keep_last),
        "--step", str(step or 0),
        *(["--refused"] if refused else []),
    ]  # fmt: skip
    return subprocess.run(command, check=False).returncode
