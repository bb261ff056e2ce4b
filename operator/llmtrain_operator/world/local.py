"""The world of one machine: agents are child processes, a folder is the store.

Below: `job_folder` remembers, `subprocesses` starts and ends. Above: `reconcile`, as in a cluster,
called by `llmtrain run`. Nothing is decided here: who starts, who goes and what is said of it is
the plan's word.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import sys
from collections.abc import Callable
from datetime import datetime

from pydantic import ValidationError

from llmtrain_api import JobStatus, LLMTrainingJob, ProgressRecord
from llmtrain_api.run import Rendezvous, StorageConfig
from llmtrain_operator.plan.run_config import build_run_config
from llmtrain_operator.plan.types import (
    Event,
    Observed,
    ObservedProcess,
    Plan,
    Process,
    ProcessState,
)
from llmtrain_operator.world.job_folder import JobFolder, ProcessFile
from llmtrain_operator.world.subprocesses import Child, start_child

HOST = "127.0.0.1"
GRACE_SECONDS = 120.0
"""Until an agent that was told to leave is killed; as long as a pod's."""
PROGRESS_TIMEOUT_SECONDS = 1.0

FIRST_PORT, LAST_PORT = 20_000, 32_000
"""Agents listen here: below the ports that systems give to outgoing connections."""


class LocalWorld:
    """One job, its agents and its store on this machine."""

    def __init__(
        self,
        folder: JobFolder,
        *,
        port: int,
        clock: Callable[[], datetime],
        tell: Callable[[Event], None],
    ) -> None:
        """Look after the job of a folder.

        Args:
            folder: Where the job is remembered; this process holds its lock.
            port: Worker i listens on port + i of the loopback interface.
            clock: Gives the time, with a zone.
            tell: Is handed every event.
        """
        self._folder = folder
        self._port = port
        self._clock = clock
        self._tell = tell
        self._children: dict[str, Child] = {}
        self._waits: set[asyncio.Task[None]] = set()
        self._change = asyncio.Event()
        self._status: JobStatus | None = None
        self._is_suspended = False
        self.progress: ProgressRecord | None = None
        """What worker 0 said when it was last asked."""

    @property
    def is_idle(self) -> bool:
        """No agent is at work."""
        return not any(child.is_live for child in self._children.values())

    def suspend(self) -> None:
        """Let the plan see `runPolicy.suspend`: agents save and leave."""
        self._is_suspended = True
        self._change.set()

    def kill(self) -> None:
        """End every agent now, with nothing saved since the last checkpoint."""
        for child in self._children.values():
            if child.is_live:
                child.kill()

    async def close(self) -> None:
        """End what still runs, and wait until it has ended."""
        self.kill()
        await asyncio.gather(*self._waits)

    async def wait_for_change(self, seconds: float) -> None:
        """Return when a process ended or the run is to stop, or after a while."""
        try:
            await asyncio.wait_for(self._change.wait(), seconds)
        except TimeoutError:
            return
        self._change.clear()

    async def read_job(self, key: str) -> LLMTrainingJob | None:
        """Return the job of the folder."""
        job = self._folder.read_job()
        if job is None or job.key != key:
            return None
        if not self._is_suspended:
            return job
        policy = job.spec.run_policy.model_copy(update={"suspend": True})
        return job.model_copy(update={"spec": job.spec.model_copy(update={"run_policy": policy})})

    async def observe(self, job: LLMTrainingJob) -> Observed:
        """Return the processes that are remembered, and what worker 0 says of itself."""
        found = [self._observe_process(file) for file in self._folder.list_processes()]
        leaders = [
            o for o in found if o.process.index == 0 and o.state is ProcessState.RUNNING
        ]
        if leaders:
            record = await asyncio.to_thread(fetch_progress, self._port)
            if record is not None and record.stage is leaders[-1].process.stage:
                self.progress = record
        return Observed(processes=tuple(found), progress=self.progress)

    async def apply(self, job: LLMTrainingJob, plan: Plan) -> tuple[str, ...]:
        """Start and remove processes."""
        for process in plan.remove:
            self._remove(process)
        config = None
        refusals = []
        for process in plan.start:
            child = self._children.get(process.name)
            if child is not None and child.is_live:
                continue
            config = config or self._folder.write_config(
                build_run_config(
                    job,
                    storage=StorageConfig(
                        uri=job.spec.storage.uri,
                        local_root=str(self._folder.store.absolute()),
                    ),
                    rendezvous=Rendezvous(
                        leader_host=HOST, port=self._port, port_per_worker=True
                    ),
                )
            )
            try:
                await self._start(process, str(config))
            except OSError as error:
                refusals.append(f"{process.name}: {error}")
        return tuple(refusals)

    async def write_status(self, job: LLMTrainingJob, status: JobStatus) -> None:
        """Keep the status. Nobody else writes it: this process holds the folder's lock."""
        self._folder.write_status(status)

    async def publish(self, job: LLMTrainingJob, events: tuple[Event, ...]) -> None:
        """Tell people, now and in the folder."""
        for event in events:
            self._folder.append_event(event, self._clock())
            self._tell(event)

    async def _start(self, process: Process, config: str) -> None:
        exit_record = self._folder.locate_exit_record(process).absolute()
        exit_record.unlink(missing_ok=True)
        child = await start_child(
            [
                *(sys.executable, "-m", "llmtrain_trainer", "agent"),
                *("--config", config),
                *("--stage", process.stage),
                *("--index", str(process.index)),
                *("--incarnation", str(process.incarnation)),
                *("--termination-log", str(exit_record)),
                *("--host", HOST),
            ],
            environment={**os.environ, "PYTHONUNBUFFERED": "1"},
            log=self._folder.locate_log(process),
        )
        file = ProcessFile(
            stage=process.stage,
            index=process.index,
            incarnation=process.incarnation,
            created_at=self._clock(),
        )
        self._folder.write_process(file)
        self._children[process.name] = child
        wait = asyncio.create_task(self._wait(process, child, file))
        self._waits.add(wait)
        wait.add_done_callback(self._waits.discard)

    async def _wait(self, process: Process, child: Child, file: ProcessFile) -> None:
        await child.wait()
        if child.is_leaving:
            self._folder.forget_process(process)
        else:
            ended = {"finished_at": self._clock(), "exit_code": child.exit_code}
            self._folder.write_process(file.model_copy(update=ended))
        self._change.set()

    def _remove(self, process: Process) -> None:
        child = self._children.get(process.name)
        if child is not None and child.is_live:
            child.leave(GRACE_SECONDS)
        else:
            self._folder.forget_process(process)

    def _observe_process(self, file: ProcessFile) -> ObservedProcess:
        process = file.name_process(self._folder.name)
        child = self._children.get(process.name)
        if file.finished_at is None and (child is None or not child.is_live):
            # Its parent was killed before it could write down the end.
            file = file.model_copy(update={"finished_at": self._clock(), "ended_by": "Deleted"})
            self._folder.write_process(file)
        return ObservedProcess(
            process=process,
            state=_find_state(file, child),
            address=f"{HOST}:{self._port + file.index}",
            node=socket.gethostname(),
            created_at=file.created_at,
            finished_at=file.finished_at,
            exit_code=file.exit_code,
            exit_record=self._folder.read_exit_record(process) if file.finished_at else None,
            ended_by=file.ended_by,
        )


def _find_state(file: ProcessFile, child: Child | None) -> ProcessState:
    if file.finished_at is not None:
        return ProcessState.SUCCEEDED if file.exit_code == 0 else ProcessState.FAILED
    assert child is not None
    return ProcessState.LEAVING if child.is_leaving else ProcessState.RUNNING


def fetch_progress(port: int) -> ProgressRecord | None:
    """Ask the agent on a port of this machine how far it is; None where it does not answer."""
    connection = http.client.HTTPConnection(HOST, port, timeout=PROGRESS_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/progress")
        response = connection.getresponse()
        return ProgressRecord.read_lenient(json.loads(response.read()))
    except (OSError, http.client.HTTPException, ValueError, ValidationError):
        return None
    finally:
        connection.close()


def find_ports(count: int, *, first: int) -> int:
    """Return the first of so many free ports in a row on the loopback interface.

    Args:
        count: Ports that are needed.
        first: Where to look first, from FIRST_PORT to LAST_PORT; a varied one keeps runs that
            start together apart.

    Raises:
        OSError: there are none.
    """
    port = first
    while port + count <= LAST_PORT:
        taken = next((p for p in range(port, port + count) if not _is_free(p)), None)
        if taken is None:
            return port
        port = taken + 1
    raise OSError(f"no {count} free ports in a row from {first} to {LAST_PORT}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
