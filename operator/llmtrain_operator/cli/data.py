"""`llmtrain data`: what a dataset was made of, and which datasets and runs used a source.

Below: the trainer's command of that name, in a process of its own: the operator knows no store.
Above: the command line.
"""

from __future__ import annotations

import json
import subprocess
import sys

from llmtrain_api.run import StorageConfig
from llmtrain_operator.cli.machine import TRAINER_MODULES, require_packages


def inspect_dataset(uri: str, storage: StorageConfig, *, is_run: bool) -> int:
    """Let the trainer print the dataset at `uri`, or that of the run there; return its exit code.

    Raises:
        click.ClickException: the trainer's packages are not installed.
    """
    return _call("inspect", uri, storage, *(["--run"] if is_run else []))


def trace_source(uri: str, storage: StorageConfig, source: str) -> int:
    """Let the trainer print who below `uri` used a source; return its exit code.

    Raises:
        click.ClickException: the trainer's packages are not installed.
    """
    return _call("lineage", uri, storage, "--source", source)


def _call(action: str, uri: str, storage: StorageConfig, *arguments: str) -> int:
    require_packages(TRAINER_MODULES, extra="trainer")
    command = [sys.executable, "-m", "llmtrain_trainer", "data", action, "--uri", uri]
    command += ["--storage", json.dumps(storage.dump()), *arguments]
    return subprocess.run(command, check=False).returncode
