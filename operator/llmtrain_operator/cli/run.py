"""`llmtrain run`: the operator's own reconcile, over and over, for one job on this machine.

Below: `reconcile` and the local world. Above: the commands `run` and `demo`.
"""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console

from llmtrain_api import LLMTrainingJob
from llmtrain_api.status import Phase
from llmtrain_operator.cli.machine import TRAINER_MODULES, count_cores, require_packages
from llmtrain_operator.cli.outcome import print_outcome
from llmtrain_operator.cli.view import View, open_view, take_snapshot
from llmtrain_operator.plan.types import Event, EventKind
from llmtrain_operator.quantities import parse_cores
from llmtrain_operator.reconcile import reconcile
from llmtrain_operator.world.job_folder import JobBusyError, JobChangedError, JobFolder
from llmtrain_operator.world.local import LocalWorld

PASS_SECONDS = 0.3
"""Between two passes: how old what is seen may be."""

OVER = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.SUSPENDED})

SUSPENDED = "Suspended"
"""The plan's word for a stop, of which people have been told in better ones by then."""

STOPPING = Event(
    kind=EventKind.NORMAL,
    reason="Stopping",
    message="the workers save and leave; Ctrl-C again stops them at once",
)


def run_job(job: LLMTrainingJob, store: Path) -> int:
    """Run a job until it ends or Ctrl-C; the exit code is 0 if and only if it succeeded.

    Raises:
        click.ClickException: it cannot be run here, and what to do.
    """
    console = Console()
    job = follow_job(job, store, console)
    print_outcome(job, store, console)
    return exit_code(job)


def exit_code(job: LLMTrainingJob) -> int:
    """Return 0 for a job that succeeded, and 1 for every other."""
    return 0 if job.status.phase is Phase.SUCCEEDED else 1


def follow_job(job: LLMTrainingJob, store: Path, console: Console) -> LLMTrainingJob:
    """Run a job until it ends or Ctrl-C, showing how far it is; returns it with its last status.

    A job that has succeeded before is returned as it is.

    Raises:
        click.ClickException: it cannot be run here, and what to do.
    """
    require_packages(TRAINER_MODULES, extra="trainer")
    folder = JobFolder(store, job.metadata.namespace, job.metadata.name)
    try:
        with folder.hold():
            job = folder.submit(job, read_clock())
            if job.status.phase is not Phase.SUCCEEDED:
                _warn_of_narrow_machine(job, console)
                job = asyncio.run(_run_passes(folder, console))
    except JobBusyError as error:
        raise click.ClickException(str(error)) from None
    except JobChangedError as error:
        raise click.ClickException(_explain_changes(job, folder, error)) from None
    except OSError as error:
        raise click.ClickException(f"the job cannot be run in {store}: {error}") from error
    return job


def read_clock() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


def _explain_changes(job: LLMTrainingJob, folder: JobFolder, error: JobChangedError) -> str:
    changes = "\n".join(f"  {change}" for change in error.changes)
    return (
        f"{job.metadata.name} was run here before, and what is fixed once a job exists differs:\n"
        f"{changes}\n"
        "Give the changed job another metadata.name; or, to begin this one anew, remove "
        f"{folder.path}"
    )


async def _run_passes(folder: JobFolder, console: Console) -> LLMTrainingJob:
    with open_view(console, read_clock()) as view:
        world = LocalWorld(
            folder,
            clock=read_clock,
            publish=lambda event: None if event.reason == SUSPENDED else view.tell(event),
        )
        job = folder.read_job()
        assert job is not None
        world.configure(job)
        wake = asyncio.Event()
        _listen_to_signals(world, view, wake)
        try:
            while True:
                # Asked before the pass, so that the last one has seen how each process ended.
                is_still = not world.has_live_processes()
                await reconcile(job.key, world, read_clock)
                job = folder.read_job()
                assert job is not None
                view.show(take_snapshot(job, world.progress, read_clock()))
                if job.status.phase in OVER and is_still:
                    return job
                await _sleep(wake)
        finally:
            world.kill_all()


def _listen_to_signals(world: LocalWorld, view: View, wake: asyncio.Event) -> None:
    def stop() -> None:
        if world.is_suspended:
            world.kill_all()
        else:
            world.is_suspended = True
            view.tell(STOPPING)
        wake.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)


async def _sleep(wake: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(wake.wait(), PASS_SECONDS)
    except TimeoutError:
        return
    wake.clear()


def _warn_of_narrow_machine(job: LLMTrainingJob, console: Console) -> None:
    workers = job.spec.workers
    wanted = workers.replicas * parse_cores(workers.resources.cpu)
    cores = count_cores()
    if wanted > cores:
        console.print(
            f"{workers.replicas} workers of workers.resources.cpu: {workers.resources.cpu} want "
            f"{wanted:g} cores; this machine has {cores}, so they take turns",
            style="yellow",
        )
