"""`llmtrain submit`: give a job to a cluster, and follow it there.

Below: `cluster` connects, `manifest` reads, `view` shows. Above: the command line. What is
applied is what the file says; the apiserver adds its defaults, as for kubectl.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import click
from rich.console import Console

from llmtrain_api import LLMTrainingJob
from llmtrain_api.base import API_VERSION, KIND, PLURAL
from llmtrain_api.status import Phase
from llmtrain_operator.cli.cluster import (
    ClusterError,
    Context,
    connect,
    explain_refusal,
    read_version,
    require_context,
)
from llmtrain_operator.cli.manifest import find_job_document, list_other_objects, load_job
from llmtrain_operator.cli.outcome import print_cluster_outcome, print_plain
from llmtrain_operator.cli.run import exit_code
from llmtrain_operator.cli.view import View, open_view, take_snapshot
from llmtrain_operator.plan.types import Event, EventKind
from llmtrain_operator.render.labels import JOB_LABEL
from llmtrain_operator.world.job_folder import list_changes
from llmtrain_operator.world.kube import ApiError, KubeClient

FIELD_MANAGER = "llmtrain"
"""Who owns the fields that this command sets; the operator is another manager."""

POLL_SECONDS = 2.0
"""Between two looks at a job that is waited for."""

SERVER_METADATA = frozenset(
    {"creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid"}
)
"""What the apiserver writes; a file that was read from a cluster holds it too."""

ENDED = frozenset({Phase.SUCCEEDED, Phase.FAILED})

DENIED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
"""Answers that do not change by asking again."""

UNSEEN_AFTER = timedelta(seconds=15)
UNSEEN = Event(
    kind=EventKind.WARNING,
    reason="NotSeen",
    message="no operator has looked at the job yet; `llmtrain doctor --cluster` says why",
)


class JobGoneError(Exception):
    """The job was deleted while it was waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A job as the apiserver has it now, and what became of it by this call."""

    job: LLMTrainingJob
    change: str
    """created, configured or unchanged, in kubectl's words."""


def submit_job(manifest: Path, namespace: str | None, *, wait: bool) -> int:
    """Apply the job of a manifest; exit code 0: applied, and with `wait` that it succeeded.

    Raises:
        click.ClickException: the manifest is wrong, or the cluster refuses it.
    """
    console = Console()
    written = find_job_document(manifest).data
    try:
        context = require_context()
        named = written.get("metadata")
        in_file = named.get("namespace") if isinstance(named, dict) else None
        wanted = load_job(manifest, namespace=namespace or in_file or context.namespace)
        if others := list_other_objects(manifest):
            print_plain(
                console,
                f"Only the job is applied; {manifest} holds {', '.join(others)} too, for "
                f"kubectl -n {wanted.metadata.namespace} apply -f {manifest}",
            )
        return asyncio.run(_submit(wanted, written, context, console, wait=wait))
    except ClusterError as error:
        raise click.ClickException(str(error)) from None
    except JobGoneError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        return 1


async def _submit(
    wanted: LLMTrainingJob,
    written: dict[str, Any],
    context: Context,
    console: Console,
    *,
    wait: bool,
) -> int:
    async with connect() as client:
        try:
            await read_version(client)
            submitted = await apply_job(client, wanted, written)
            print_plain(console, f"{submitted.job.key} {submitted.change} in {context.name}")
            if not wait:
                _print_next_steps(submitted.job, console)
                return 0
            try:
                job = await _follow(client, submitted.job, console)
            except asyncio.CancelledError:  # Ctrl-C
                print_plain(console, "The job goes on; the same command waits for it again.")
                raise
        except ApiError as error:
            raise click.ClickException(_explain(error, wanted)) from error
    print_cluster_outcome(job, console)
    return exit_code(job)


async def apply_job(
    client: KubeClient, wanted: LLMTrainingJob, written: dict[str, Any]
) -> Submitted:
    """Apply a job on the server side, without taking fields from other managers.

    Args:
        client: Connected to the cluster.
        wanted: The job as read from the manifest.
        written: The same as it is written there.

    Raises:
        ApiError: the apiserver refused.
        click.ClickException: the job exists, and what is fixed differs.
    """
    path = _locate(wanted)
    present = await _read(client, path)
    if present is not None and (changes := list_changes(present, wanted)):
        lines = "\n".join(f"  {change}" for change in changes)
        raise click.ClickException(
            f"{wanted.key} exists, and what is fixed once a job exists differs:\n{lines}\n"
            f"Give the changed job another metadata.name; or, to begin this one anew:\n"
            f"  kubectl -n {wanted.metadata.namespace} delete {KIND.lower()} {wanted.metadata.name}"
        )
    metadata = {k: v for k, v in written["metadata"].items() if k not in SERVER_METADATA}
    body = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": metadata | {"namespace": wanted.metadata.namespace},
        "spec": written["spec"],
    }
    answer = await client.apply(path, body, manager=FIELD_MANAGER, force=False)
    job = LLMTrainingJob.read_lenient(answer)
    if present is None:
        change = "created"
    elif present.metadata.generation != job.metadata.generation:
        change = "configured"
    else:
        change = "unchanged"
    return Submitted(job=job, change=change)


async def _follow(
    client: KubeClient, submitted: LLMTrainingJob, console: Console
) -> LLMTrainingJob:
    """Show a job until it ends; returns it as it ended.

    Raises:
        JobGoneError: it was deleted.
        ApiError: the apiserver does not let us look any more.
    """
    told: set[str] = set()
    is_silent = False
    began = _now()
    with open_view(console, _now()) as view:
        while True:
            try:
                job = await _read(client, _locate(submitted))
                if job is None or job.metadata.uid != submitted.metadata.uid:
                    raise JobGoneError(f"{submitted.key} was deleted while it was waited for")
                await _tell_events(client, job, view, told)
                is_silent = False
            except (aiohttp.ClientError, TimeoutError, OSError, ApiError) as error:
                if isinstance(error, ApiError) and error.status in DENIED:
                    raise
                if not is_silent:
                    view.tell(_warn_of_silence(error))
                is_silent = True
            else:
                is_unseen = job.status.observed_generation < 0
                if is_unseen and UNSEEN.reason not in told and _now() - began > UNSEEN_AFTER:
                    told.add(UNSEEN.reason)
                    view.tell(UNSEEN)
                view.show(take_snapshot(job, None, _now()))
                if job.status.phase in ENDED:
                    return job
            await asyncio.sleep(POLL_SECONDS)


async def _tell_events(client: KubeClient, job: LLMTrainingJob, view: View, told: set[str]) -> None:
    """Tell what the operator published about the job and has not been told here."""
    try:
        events, _ = await client.list_all(
            f"/api/v1/namespaces/{job.metadata.namespace}/events",
            fieldSelector=f"involvedObject.uid={job.metadata.uid}",
        )
    except ApiError as error:
        if error.status == HTTPStatus.FORBIDDEN:
            return  # the status says the same in fewer words
        raise
    for event in sorted(events, key=lambda event: str(event.get("firstTimestamp"))):
        name = event["metadata"]["name"]
        if name not in told:
            told.add(name)
            kind = EventKind.WARNING if event.get("type") == "Warning" else EventKind.NORMAL
            view.tell(Event(kind=kind, reason=event["reason"], message=event["message"]))


async def _read(client: KubeClient, path: str) -> LLMTrainingJob | None:
    try:
        return LLMTrainingJob.read_lenient(await client.get(path))
    except ApiError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return None
        raise


def _locate(job: LLMTrainingJob) -> str:
    metadata = job.metadata
    return f"/apis/{API_VERSION}/namespaces/{metadata.namespace}/{PLURAL}/{metadata.name}"


def _explain(error: ApiError, job: LLMTrainingJob) -> str:
    said = explain_refusal(error)
    if error.status == HTTPStatus.NOT_FOUND and "namespaces" in error.message:
        return f"{said}: kubectl create namespace {job.metadata.namespace}"
    if error.status in (HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN):
        return f"{said}; `llmtrain doctor --cluster` says what is missing"
    if error.status == HTTPStatus.CONFLICT:
        return (
            f"{said}; change them where they are set, or take them over: "
            "kubectl apply --server-side --force-conflicts -f MANIFEST"
        )
    return said


def _warn_of_silence(error: Exception) -> Event:
    message = f"{error or type(error).__name__}; the job goes on, and this keeps asking"
    return Event(kind=EventKind.WARNING, reason="NoAnswer", message=message)


def _print_next_steps(job: LLMTrainingJob, console: Console) -> None:
    name, kubectl = job.metadata.name, f"kubectl -n {job.metadata.namespace}"
    for label, command in (
        ("progress", f"{kubectl} get {PLURAL} {name} --watch"),
        ("why", f"{kubectl} describe {KIND.lower()} {name}"),
        ("logs", f"{kubectl} logs -l {JOB_LABEL}={name} --prefix --follow"),
        ("stop", f"{kubectl} delete {KIND.lower()} {name}   (its data stays)"),
    ):
        print_plain(console, f"  {label:10}{command}")


def _now() -> datetime:
    return datetime.now(UTC)
