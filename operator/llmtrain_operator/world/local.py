"""The world of one machine: agents are processes, the store is a folder, the job is a file.

Below: `processes` and `job_folder`. Above: `reconcile`, which decides here as it does in a
cluster, and `llmtrain run`. Every worker listens on a port of its own at 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import socket
import sys
import urllib.request
from collections.abc import Callable, Sequence
from datetime import datetime

from pydantic import ValidationError

from llmtrain_api import JobStatus, LLMTrainingJob, ProgressRecord, RunConfig
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
from llmtrain_operator.plan.workers import LIVE_STATES
from llmtrain_operator.world import ConflictError
from llmtrain_operator.world.job_folder import JobFolder, replace_file
from llmtrain_operator.world.processes import AgentProcesses

HOST = "127.0.0.1"
FIRST_PORT, LAST_PORT = 20_000, 32_000
"""Agents listen here: below the ports that systems give to outgoing connections."""

PROGRESS_TIMEOUT_SECONDS = 2.0

TRAINER_COMMAND = (sys.executable, "-m", "llmtrain_trainer")

logger = logging.getLogger(__name__)

_open_url = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
"""Agents on this machine are not to be asked for through a proxy."""


class LocalWorld:
    """One job on this machine. The caller holds the job's folder (`JobFolder.hold`)."""

    def __init__(
        self,
        folder: JobFolder,
        *,
        clock: Callable[[], datetime],
        publish: Callable[[Event], None],
        trainer: Sequence[str] = TRAINER_COMMAND,
    ) -> None:
        """Look after the job of a folder, and tell people by `publish`.

        Args:
            folder: Where the job is remembered; objects are kept in its store.
            clock: Gives the time, with a zone.
            publish: Is handed every event.
            trainer: The command whose `agent` runs a process.
        """
        self._folder = folder
        self._clock = clock
        self._publish = publish
        self._processes = AgentProcesses(folder, trainer, clock)
        self._config: RunConfig | None = None
        self.is_suspended = False
        """Reads as runPolicy.suspend: true, so that the plan itself stops the run (Ctrl-C)."""
        self.progress: ProgressRecord | None = None
        """What worker 0 of the current stage said last."""

    def configure(self, job: LLMTrainingJob) -> None:
        """Find free ports and write down what the job's processes are told.

        Raises:
            OSError: there are no free ports, or the folder cannot be written.
        """
        # Runs that start together look in different places first.
        offset = os.getpid() % ((LAST_PORT - FIRST_PORT) // 2)
        num_late = max(job.spec.data.tasks, job.spec.evaluation.workers) - 1
        num_ports = job.spec.workers.replicas + num_late
        first_port = find_free_ports(num_ports, FIRST_PORT + offset)
        self._config = build_run_config(
            job,
            storage=StorageConfig(uri=job.spec.storage.uri, local_root=str(self._folder.store)),
            rendezvous=Rendezvous(leader_host=HOST, port=first_port, port_per_worker=True),
        )
        replace_file(self._folder.config_path, json.dumps(self._config.dump(), indent=1))

    def has_live_processes(self) -> bool:
        """Tell whether some process is, or may still be, at work."""
        return any(observed.state in LIVE_STATES for observed in self._processes.observe())

    def kill_all(self) -> None:
        """End every process at once, without saving."""
        self._processes.kill_all()

    async def read_job(self, key: str) -> LLMTrainingJob | None:
        """Return the job."""
        assert key == self._folder.key
        job = self._folder.read_job()
        if job is None or not self.is_suspended:
            return job
        policy = job.spec.run_policy.model_copy(update={"suspend": True})
        return job.model_copy(update={"spec": job.spec.model_copy(update={"run_policy": policy})})

    async def observe(self, job: LLMTrainingJob) -> Observed:
        """Return the job's processes and what worker 0 of the running stage says of itself."""
        processes = self._processes.observe()
        leader = next(
            (o for o in processes if o.state is ProcessState.RUNNING and o.process.index == 0),
            None,
        )
        if leader is not None and leader.address is not None:
            answer = await asyncio.to_thread(fetch_progress, leader.address)
            if answer is not None and _speaks_for(answer, leader):
                self.progress = answer
        return Observed(processes=processes, progress=self.progress)

    async def apply(self, job: LLMTrainingJob, plan: Plan) -> tuple[str, ...]:
        """Start and remove processes; a machine refuses only for want of processes or memory."""
        living = {o.process for o in self._processes.observe() if o.state in LIVE_STATES}
        for process in plan.remove:
            if process in living:
                self._processes.tell_to_leave(process)
            else:
                self._processes.forget(process)
        refusals = []
        for process in plan.start:
            try:
                self._processes.start(process, host=HOST, port=self._find_port(process))
            except OSError as error:
                self._processes.forget(process)
                refusals.append(f"{process.name}: {error}")
        return tuple(refusals)

    def _find_port(self, process: Process) -> int:
        assert self._config is not None, "configure comes first"
        return self._config.find_port(process.stage, process.index)

    async def write_status(self, job: LLMTrainingJob, status: JobStatus) -> None:
        """Replace the job's status.

        Raises:
            ConflictError: the job changed since `read_job`.
        """
        stored = self._folder.read_job()
        version = job.metadata.resource_version
        if stored is None or stored.metadata.resource_version != version:
            raise ConflictError(f"{job.key} changed since version {version}")
        metadata = stored.metadata.model_copy(update={"resource_version": str(int(version) + 1)})
        self._folder.write_job(stored.model_copy(update={"metadata": metadata, "status": status}))

    async def publish(self, job: LLMTrainingJob, events: tuple[Event, ...]) -> None:
        """Keep events, and hand them to whoever shows them."""
        for event in events:
            self._folder.append_event(event, self._clock())
            self._publish(event)


def fetch_progress(address: str) -> ProgressRecord | None:
    """Ask an agent how far it is; None where it does not answer (yet)."""
    url = f"http://{address}/progress"
    try:
        with _open_url(url, timeout=PROGRESS_TIMEOUT_SECONDS) as answer:
            return ProgressRecord.read_lenient(json.load(answer))
    except (OSError, http.client.HTTPException):
        return None
    except (json.JSONDecodeError, ValidationError) as error:
        logger.warning("%s answered what is no progress record: %s", url, error)
        return None


def find_free_ports(num_ports: int, first: int) -> int:
    """Return the first of that many free ports in a row, looking from `first` on.

    Raises:
        OSError: there are none.
    """
    port = first
    while port + num_ports <= LAST_PORT:
        taken = next((p for p in range(port, port + num_ports) if not _is_free(p)), None)
        if taken is None:
            return port
        port = taken + 1
    raise OSError(f"no {num_ports} free ports in a row between {first} and {LAST_PORT}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _speaks_for(record: ProgressRecord, leader: ObservedProcess) -> bool:
    process = leader.process
    return (record.stage, record.incarnation) == (process.stage, process.incarnation)
