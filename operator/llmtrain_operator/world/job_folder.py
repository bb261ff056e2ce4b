"""What a local run remembers: the job, its status and its processes, as files in the store folder.

Below: the contract and the file system. Above: `local` keeps its world here; `llmtrain status`
and `llmtrain logs` read it.

    <store>/<bucket>/…                     objects: s3://bucket/key is <store>/bucket/key
    <store>/_jobs/<namespace>/<name>/      `_` cannot begin a bucket's name
        job.json  status.json              the job as it was first run, and what became of it
        run.json                           what its processes are told
        events.jsonl                       what people were told
        processes/<process>.json           one incarnation: when it ran and how it ended
        processes/<process>.{log,exit}     its output and its exit record

Every JSON file is replaced as a whole, so that a reader never sees half of one, and a run that is
killed leaves the last whole state behind.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmtrain_api import ExitRecord, JobStatus, LLMTrainingJob, RunConfig
from llmtrain_api.base import Model
from llmtrain_api.records import Stage
from llmtrain_operator.plan.types import Event, Process

S3_SCHEME = "s3://"


class JobRunsError(Exception):
    """Another `llmtrain run` works on the same job."""


class ProcessFile(Model):
    """One incarnation of one worker, as far as it has come."""

    stage: Stage
    index: int
    incarnation: int
    created_at: datetime
    finished_at: datetime | None = None
    exit_code: int | None = None
    """As a shell gives it: 128 and the signal's number for a process that was killed."""
    ended_by: str = ""

    def name_process(self, job: str) -> Process:
        """Return the process in the plan's words."""
        return Process(job=job, stage=self.stage, index=self.index, incarnation=self.incarnation)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFolder:
    """The files of one job."""

    store: Path
    namespace: str
    name: str

    @property
    def path(self) -> Path:
        """The folder of the job."""
        return self.store / "_jobs" / self.namespace / self.name

    def locate(self, uri: str) -> Path:
        """Return where an object or prefix of the store lies on this machine."""
        return self.store / uri.removeprefix(S3_SCHEME)

    def locate_log(self, process: Process) -> Path:
        """Return where the output of a process is kept."""
        return self._processes / f"{process.name}.log"

    def locate_exit_record(self, process: Process) -> Path:
        """Return where a process writes why it ended."""
        return self._processes / f"{process.name}.exit"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the job, so that one `llmtrain run` works on it; the kernel frees it at the end.

        Raises:
            JobRunsError: another one holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise JobRunsError(self.name) from None
            yield

    def is_running(self) -> bool:
        """Tell whether some `llmtrain run` works on the job."""
        try:
            with self.lock():
                return False
        except JobRunsError:
            return True

    def read_job(self) -> LLMTrainingJob | None:
        """Return the job with its status, or None where it was never run."""
        try:
            job = json.loads((self.path / "job.json").read_text())
        except FileNotFoundError:
            return None
        try:
            job["status"] = json.loads((self.path / "status.json").read_text())
        except FileNotFoundError:
            job.pop("status", None)
        return LLMTrainingJob.read_lenient(job)

    def write_job(self, job: LLMTrainingJob) -> None:
        """Keep the job, but for its status."""
        data = job.dump()
        data.pop("status")
        _write_json(self.path / "job.json", data)

    def write_status(self, status: JobStatus) -> None:
        """Keep the status."""
        _write_json(self.path / "status.json", status.dump())

    def write_config(self, config: RunConfig) -> Path:
        """Write what the processes are told, and return where."""
        path = self.path / "run.json"
        _write_json(path, config.dump())
        return path.absolute()

    def append_event(self, event: Event, now: datetime) -> None:
        """Keep what people are told."""
        data = {"time": now.isoformat(), "reason": event.reason, "message": event.message}
        with (self.path / "events.jsonl").open("a") as file:
            file.write(json.dumps(data) + "\n")

    def list_processes(self) -> list[ProcessFile]:
        """Return the processes that are remembered, by stage, index and incarnation."""
        files = [
            ProcessFile.read_lenient(json.loads(path.read_text()))
            for path in self._processes.glob("*.json")
        ]
        stages = list(Stage)
        return sorted(files, key=lambda f: (stages.index(f.stage), f.index, f.incarnation))

    def write_process(self, file: ProcessFile) -> None:
        """Remember a process."""
        process = file.name_process(self.name)
        _write_json(self._processes / f"{process.name}.json", file.dump())

    def forget_process(self, process: Process) -> None:
        """Forget a process; its output and exit record stay for people."""
        (self._processes / f"{process.name}.json").unlink(missing_ok=True)

    def read_exit_record(self, process: Process) -> ExitRecord | None:
        """Return why a process ended, if it could say so."""
        try:
            return ExitRecord.read_lenient(json.loads(self.locate_exit_record(process).read_text()))
        except (FileNotFoundError, ValueError, ValidationError):
            return None

    @property
    def _processes(self) -> Path:
        return self.path / "processes"


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    whole.write_text(json.dumps(data, indent=2) + "\n")
    whole.replace(path)
