"""Runs by their names: where each lies, and what the status of its job knows of it.

Below: the folders of local jobs, the contract. Above: `compare`, `search` and `next`, which hand
them to the trainer: the operator knows no store.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from llmtrain_api import LLMTrainingJob
from llmtrain_api.devices import find_selected_device
from llmtrain_api.naming import locate_run
from llmtrain_api.run import RunPlace, StorageConfig
from llmtrain_api.usage import Usage
from llmtrain_operator.cli.checkpoints import describe_storage
from llmtrain_operator.cli.machine import TRAINER_MODULES, require_packages
from llmtrain_operator.forecast.outlook import JOULES_PER_KILOWATT_HOUR, SECONDS_PER_HOUR
from llmtrain_operator.world.job_folder import JOBS_FOLDER, JobFolder


def find_job(name: str, namespace: str, store: Path) -> LLMTrainingJob:
    """Return a job of this machine.

    Raises:
        click.ClickException: there is none of that name; names those that there are.
    """
    folder = JobFolder(store, namespace, name)
    job = folder.read_job()
    if job is not None:
        return job
    jobs = sorted(path.parent for path in (folder.store / JOBS_FOLDER).glob("*/*/job.json"))
    known = ", ".join(f"{path.parent.name}/{path.name}" for path in jobs) or "no jobs"
    raise click.ClickException(f"no job {folder.key} in {folder.store}; it holds: {known}")


def find_run(
    run: str,
    namespace: str,
    store: Path,
    *,
    endpoint: str | None = None,
    credentials: Path | None = None,
    ca_file: Path | None = None,
    price_per_hour: float | None = None,
) -> RunPlace:
    """Return where a run lies.

    Args:
        run: name of a job that ran on this machine, or s3:// URI of a run.
        namespace: of the job.
        store: folder that takes the store's place, for names.
        endpoint: S3 server, for URIs; None: AWS.
        credentials: folder with accessKey and secretKey, for URIs.
        ca_file: authority of the endpoint.
        price_per_hour: of a GPU, or of the whole machine where a run has none.

    Raises:
        click.ClickException: there is no such job, or what is given is no URI.
    """
    if run.startswith("s3://"):
        uri, storage = run.rstrip("/"), describe_storage(run, endpoint, credentials, ca_file)
        return RunPlace(name=uri.rpartition("/")[2], uri=uri, storage=storage)
    return describe_run(find_job(run, namespace, store), store, price_per_hour)


def describe_run(job: LLMTrainingJob, store: Path, price_per_hour: float | None = None) -> RunPlace:
    """Return where the run of a local job lies, with its ledger and what follows from that."""
    metadata, uri = job.metadata, job.spec.storage.uri
    usage, workers = job.status.usage or Usage(), job.spec.workers
    gpus = workers.replicas * workers.resources.gpu
    hours = usage.held_seconds / SECONDS_PER_HOUR
    device = find_selected_device(workers.node_selector)
    energy = None
    if gpus and device is not None:
        energy = hours * SECONDS_PER_HOUR * gpus * device.watts / JOULES_PER_KILOWATT_HOUR
    return RunPlace(
        name=metadata.name,
        uri=locate_run(uri, metadata.namespace, metadata.name, metadata.uid),
        storage=StorageConfig(uri=uri, local_root=str(store.absolute())),
        usage=usage,
        kilowatt_hours=energy,
        cost=None if price_per_hour is None else price_per_hour * hours * max(1, gpus),
    )


def compare_runs(
    places: Sequence[RunPlace],
    *,
    as_json: bool = False,
    html: Path | None = None,
    metric: str | None = None,
    limit: float | None = None,
) -> int:
    """Let the trainer print runs side by side; return its exit code.

    Args:
        places: the runs, in the order of the columns.
        as_json: whether JSON is printed.
        html: file of a page with the same and the curves; None: no page.
        metric: drawn against size, time and cost there.
        limit: the worst value of it that is good enough, drawn as a line.

    Raises:
        click.ClickException: the trainer's packages are not installed.
    """
    require_packages(TRAINER_MODULES, extra="trainer")
    command = [sys.executable, "-m", "llmtrain_trainer", "compare"]
    command += ["--json"] if as_json else []
    command += ["--html", str(html)] if html is not None else []
    command += ["--metric", metric] if metric is not None else []
    command += ["--limit", repr(limit)] if limit is not None else []
    told = json.dumps([place.dump() for place in places])
    return subprocess.run(command, input=told, text=True, check=False).returncode
