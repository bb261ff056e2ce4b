"""The agents of a local run: start them, tell them to leave, see what became of them.

Below: `tether` and `job_folder`. Above: `local`, the world of one machine. For each process
there are, in the job's folder, a record (which worker it is, how it ended), a lock that it holds
while it lives, its exit record and its log.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from llmtrain_api import ExitCode, ExitRecord
from llmtrain_api.records import Stage
from llmtrain_operator.plan.failures import SIGNAL_EXIT_CODE_BASE
from llmtrain_operator.plan.types import ObservedProcess, Process, ProcessState
from llmtrain_operator.world import tether
from llmtrain_operator.world.job_folder import PROCESS_FILES, JobFolder, replace_file

LEAVE_SECONDS = 60.0
"""From SIGTERM to SIGKILL: time to save and leave. As long as the pods get."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRecord:
    """What is on disk about one process."""

    process: Process
    created_at: datetime
    address: str
    finished_at: datetime | None = None
    exit_code: int | None = None


class AgentProcesses:
    """The agents of one job on this machine."""

    def __init__(
        self, folder: JobFolder, trainer: Sequence[str], clock: Callable[[], datetime]
    ) -> None:
        """Run agents by the command `trainer`, as `python -m llmtrain_trainer`."""
        self._folder = folder
        self._trainer = tuple(trainer)
        self._clock = clock
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._leave_by: dict[str, datetime] = {}

    def start(self, process: Process, *, host: str, port: int) -> None:
        """Start an agent. It finds its port in the RunConfig as well."""
        record = ProcessRecord(process=process, created_at=self._clock(), address=f"{host}:{port}")
        self._write_record(record)
        # fmt: off
        command = [
            sys.executable, "-I", tether.__file__, str(self._locate(process, "lock")),
            str(os.getpid()), *self._trainer, "agent",
            "--config", str(self._folder.config_path),
            "--stage", process.stage.value,
            "--index", str(process.index),
            "--incarnation", str(process.incarnation),
            "--termination-log", str(self._locate(process, "exit.json")),
            "--host", host,
            *(["--workers", str(process.workers)] if process.workers is not None else []),
        ]
        # fmt: on
        with self.locate_log(process.name).open("ab") as log:
            self._children[process.name] = subprocess.Popen(
                command,
                cwd=self._folder.path,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the run, which then tells the agents in its own way.
                start_new_session=True,
            )

    def tell_to_leave(self, process: Process) -> None:
        """Ask an agent to save and leave; it is killed where it takes too long."""
        if process.name in self._leave_by:
            return
        self._leave_by[process.name] = self._clock() + timedelta(seconds=LEAVE_SECONDS)
        self._signal(process, signal.SIGTERM)

    def kill_all(self) -> None:
        """Kill every agent that lives, with its ranks."""
        for record in self._read_records():
            if record.finished_at is None and self._is_alive(record.process):
                self._signal(record.process, signal.SIGKILL)

    def forget(self, process: Process) -> None:
        """Remove what is on disk about a process that has ended, but for its log."""
        for kind in PROCESS_FILES:
            self._locate(process, kind).unlink(missing_ok=True)
        self._leave_by.pop(process.name, None)

    def observe(self) -> tuple[ObservedProcess, ...]:
        """Return every process that is known, and kill those that should have left by now."""
        return tuple(self._observe_one(record) for record in self._read_records())

    def locate_log(self, name: str) -> Path:
        """Return the log file of a process."""
        return self._folder.logs_path / f"{name}.log"

    def _observe_one(self, record: ProcessRecord) -> ObservedProcess:
        process = record.process
        if record.finished_at is None:
            if self._is_alive(process):
                return self._describe_living(record)
            record = self._record_end(record)
        exit_record = self._read_exit_record(process)
        code = record.exit_code
        if code is None and exit_record is not None:
            code = int(exit_record.code)
        succeeded = code == ExitCode.SUCCEEDED
        return ObservedProcess(
            process=process,
            state=ProcessState.SUCCEEDED if succeeded else ProcessState.FAILED,
            created_at=record.created_at,
            finished_at=record.finished_at,
            exit_code=code,
            exit_record=exit_record,
            # An end that nobody saw: the run itself was killed, and its processes with it.
            ended_by="" if code is not None else "Interrupted",
        )

    def _describe_living(self, record: ProcessRecord) -> ObservedProcess:
        process = record.process
        if process.name not in self._children:
            # It belongs to a run that was killed, and meets at ports that are no longer ours.
            self.tell_to_leave(process)
        leave_by = self._leave_by.get(process.name)
        if leave_by is not None and self._clock() > leave_by:
            self._signal(process, signal.SIGKILL)
        return ObservedProcess(
            process=process,
            state=ProcessState.RUNNING if leave_by is None else ProcessState.LEAVING,
            ready=leave_by is None,
            address=record.address,
            created_at=record.created_at,
        )

    def _is_alive(self, process: Process) -> bool:
        child = self._children.get(process.name)
        if child is not None:
            return child.poll() is None
        try:
            with self._locate(process, "lock").open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def _record_end(self, record: ProcessRecord) -> ProcessRecord:
        process = record.process
        code: int | None = None
        child = self._children.pop(process.name, None)
        if child is not None:
            assert child.returncode is not None
            code = child.returncode
            if code < 0:
                code = SIGNAL_EXIT_CODE_BASE - code
            # Ranks of an agent that was killed: a pod would take them with it.
            _signal_group(child.pid, signal.SIGKILL)
        ended = ProcessRecord(
            process=process,
            created_at=record.created_at,
            address=record.address,
            finished_at=self._clock(),
            exit_code=code,
        )
        self._write_record(ended)
        return ended

    def _signal(self, process: Process, number: signal.Signals) -> None:
        child = self._children.get(process.name)
        if child is not None:
            pid = child.pid
        else:
            written = self._locate(process, "lock").read_text(encoding="utf-8")
            if not written:
                return
            pid = int(written)
        if number is signal.SIGKILL:
            _signal_group(pid, number)
        else:
            _signal_process(pid, number)

    def _read_exit_record(self, process: Process) -> ExitRecord | None:
        try:
            text = self._locate(process, "exit.json").read_text(encoding="utf-8")
            return ExitRecord.read_lenient(json.loads(text))
        except (FileNotFoundError, json.JSONDecodeError, ValidationError):
            return None

    def _read_records(self) -> list[ProcessRecord]:
        return [_read_record(path) for path in self._folder.list_records()]

    def _write_record(self, record: ProcessRecord) -> None:
        process = record.process
        data = {
            "job": process.job,
            "stage": process.stage.value,
            "index": process.index,
            "incarnation": process.incarnation,
            "workers": process.workers,
            "createdAt": record.created_at.isoformat(),
            "address": record.address,
            "finishedAt": record.finished_at.isoformat() if record.finished_at else None,
            "exitCode": record.exit_code,
        }
        replace_file(self._locate(process, "json"), json.dumps(data))

    def _locate(self, process: Process, kind: str) -> Path:
        return self._folder.processes_path / f"{process.name}.{kind}"


def _read_record(path: Path) -> ProcessRecord:
    data = json.loads(path.read_text(encoding="utf-8"))
    finished = data["finishedAt"]
    return ProcessRecord(
        process=Process(
            job=data["job"],
            stage=Stage(data["stage"]),
            index=data["index"],
            incarnation=data["incarnation"],
            workers=data.get("workers"),
        ),
        created_at=datetime.fromisoformat(data["createdAt"]),
        address=data["address"],
        finished_at=datetime.fromisoformat(finished) if finished else None,
        exit_code=data["exitCode"],
    )


def _signal_process(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _signal_group(leader: int, number: signal.Signals) -> None:
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        return
