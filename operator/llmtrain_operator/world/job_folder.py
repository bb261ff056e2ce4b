"""What a local run remembers: the job, its processes and their logs, as files in the store.

Below: the contract and the file system. Above: `processes` and `local` keep the world here;
`llmtrain status` and `llmtrain logs` read it.

    <store>/<bucket>/…                      objects: s3://bucket/key is <store>/bucket/key
    <store>/_jobs/<namespace>/<name>/       `_` cannot begin a bucket's name
        job.json                            the job with its status
        run.json                            what its processes are told
        events.jsonl                        what people were told
        processes/<process>.{json,exit.json,lock}
        logs/<process>.log                  one incarnation's output

Files are replaced whole, so that a reader never sees half of one, and a run that is killed at
any instruction leaves the last whole state behind.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TextIO

from llmtrain_api import JobStatus, LLMTrainingJob
from llmtrain_api.job import FIXED_SPEC_FIELDS
from llmtrain_api.status import Phase
from llmtrain_operator.plan.types import Event

JOBS_FOLDER = "_jobs"

GLANCE_SECONDS = 0.3
"""How long a job may be held before it counts as run: `llmtrain status` holds it for an instant."""

RETRY_SECONDS = 0.03

PROCESS_FILES = ("exit.json", "lock", "json")
"""Endings of a process's files, in the order that they are removed: what names it last."""


class JobBusyError(Exception):
    """Another `llmtrain run` has the job."""


class JobChangedError(Exception):
    """A job of that name exists, and what is fixed in its spec differs."""

    def __init__(self, changes: list[str]) -> None:
        """Name the changed fields, as `spec.field: old → new`."""
        super().__init__(", ".join(changes))
        self.changes = changes


class JobFolder:
    """Where one local job keeps what Kubernetes would keep of it."""

    def __init__(self, store: Path, namespace: str, name: str) -> None:
        """Name the folder of a job; it need not exist."""
        self.store = store.absolute()
        self.path = self.store / JOBS_FOLDER / namespace / name
        self.key = f"{namespace}/{name}"
        self.config_path = self.path / "run.json"
        self.processes_path = self.path / "processes"
        self.logs_path = self.path / "logs"
        self._job_path = self.path / "job.json"

    def locate(self, uri: str) -> Path:
        """Return where an object or prefix of the store lies on this machine."""
        return self.store / uri.removeprefix("s3://")

    def list_logs(self) -> list[Path]:
        """Return the logs of all processes, the one that began last at the end."""
        return sorted(self.logs_path.glob("*.log"), key=lambda path: path.stat().st_ctime_ns)

    def read_job(self) -> LLMTrainingJob | None:
        """Return the job with its status, or None where there is none."""
        try:
            text = self._job_path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        return LLMTrainingJob.read_lenient(json.loads(text))

    def write_job(self, job: LLMTrainingJob) -> None:
        """Replace the job, status included."""
        replace_file(self._job_path, json.dumps(job.dump(), indent=1))

    def append_event(self, event: Event, now: datetime) -> None:
        """Keep what people are told."""
        data = {
            "time": now.isoformat(timespec="seconds"),
            "type": event.kind.value,
            "reason": event.reason,
            "message": event.message,
        }
        with (self.path / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(data, ensure_ascii=False) + "\n")

    @contextmanager
    def hold(self, *, patience_seconds: float = GLANCE_SECONDS) -> Iterator[None]:
        """Have the job for oneself; the kernel frees it at the holder's end, however it comes.

        Raises:
            JobBusyError: another process has it, and kept it for that long.
        """
        for folder in (self.processes_path, self.logs_path):
            folder.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("a") as file:
            deadline = time.monotonic() + patience_seconds
            while not _try_lock(file):
                if time.monotonic() > deadline:
                    raise JobBusyError(
                        f"{self.key} is run by another process: wait for it, or stop it with Ctrl-C"
                    )
                time.sleep(RETRY_SECONDS)
            yield

    def is_held(self) -> bool:
        """Tell whether some `llmtrain run` has the job."""
        if not self._job_path.exists():
            return False
        try:
            with self.hold(patience_seconds=0):
                return False
        except JobBusyError:
            return True

    def submit(self, wanted: LLMTrainingJob, now: datetime) -> LLMTrainingJob:
        """Create the job or go on with the one of that name, as `kubectl apply` would.

        A job that failed is tried again, stage by stage (prepared data is found and reused): its
        counts start anew, its checkpoints stay. The caller holds the job.

        Raises:
            JobChangedError: it exists, and differs in what is fixed once a job exists.
        """
        present = self.read_job()
        if present is None:
            metadata = wanted.metadata.model_copy(
                update={
                    "uid": str(uuid.uuid4()),
                    "generation": 1,
                    "resource_version": "1",
                    "creation_timestamp": now.isoformat(timespec="seconds"),
                }
            )
            job = wanted.model_copy(update={"metadata": metadata, "status": JobStatus()})
        else:
            changes = list_changes(present, wanted)
            if changes:
                raise JobChangedError(changes)
            status, generation = present.status, present.metadata.generation
            if status.phase is Phase.FAILED:
                # A process that a killed run left behind may still be leaving: the next
                # incarnation of its worker must not take its name.
                status = JobStatus(incarnations=status.incarnations)
                self._forget_ended()
            metadata = present.metadata.model_copy(
                update={"generation": generation + (present.spec != wanted.spec)}
            )
            job = wanted.model_copy(update={"metadata": metadata, "status": status})
        self.write_job(job)
        return job

    def forget(self) -> None:
        """Forget the job and its processes; logs, data and checkpoints stay."""
        self._job_path.unlink(missing_ok=True)
        shutil.rmtree(self.processes_path)
        self.processes_path.mkdir()

    def list_records(self) -> list[Path]:
        """Return the files that hold what is known of each process."""
        paths = self.processes_path.glob("*.json")
        return sorted(path for path in paths if not path.name.endswith(".exit.json"))

    def _forget_ended(self) -> None:
        for path in self.list_records():
            if json.loads(path.read_text(encoding="utf-8"))["finishedAt"] is not None:
                for kind in PROCESS_FILES:
                    path.with_name(path.name.removesuffix("json") + kind).unlink(missing_ok=True)


def list_changes(present: LLMTrainingJob, wanted: LLMTrainingJob) -> list[str]:
    """Return `spec.field: old → new` for everything fixed that differs."""
    before, after = present.spec.dump(), wanted.spec.dump()
    if present.spec.workers.elastic is not None and wanted.spec.workers.elastic is not None:
        after["workers"]["replicas"] = before["workers"]["replicas"]
    return [
        change
        for field in FIXED_SPEC_FIELDS
        for change in _compare(f"spec.{field}", before.get(field), after.get(field))
    ]


def replace_file(path: Path, text: str) -> None:
    """Write a file under a passing name, then give it its name."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _try_lock(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _compare(path: str, before: object, after: object) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for field in sorted({*before, *after}):
            yield from _compare(f"{path}.{field}", before.get(field), after.get(field))
    elif before != after:
        yield f"{path}: {_show(before)} → {_show(after)}"


def _show(value: object) -> str:
    return "absent" if value is None else json.dumps(value, ensure_ascii=False)
