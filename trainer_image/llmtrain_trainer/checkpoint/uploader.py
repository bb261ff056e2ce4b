"""A process of its own for each rank, which digests and uploads what the rank has staged.

Below: `store`, and no torch: it is small, and starts in half a second. Above: `saving`.

    python -m llmtrain_trainer.checkpoint.uploader '<StorageConfig>' s3://bucket/run

It reads jobs from standard input and answers on standard output, a line of JSON each. Training
shares neither its interpreter nor its priority, and its death costs a save and not the run. When
its input closes, its rank is gone, and so is it.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtrain_api.run import StorageConfig
from llmtrain_trainer.failures import StageError, StoreError
from llmtrain_trainer.store import open_store
from llmtrain_trainer.store.described import ManifestObject, describe_file

SMALL_BYTES = 16 * 1024 * 1024
"""Less than this a thread of the rank uploads itself: it is done before a process would start."""

NICENESS = 10
"""Training goes first where both want the same core."""

STOP_SECONDS = 2.0


class UploaderDiedError(StoreError):
    """The process ended amid an upload. It costs the save; the next one has a new process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A local file that is to become an object."""

    path: Path
    key: str


class Uploader:
    """The rank's side: one upload at a time, by a process that is started when it is needed."""

    def __init__(self, store_uri: str, config: StorageConfig) -> None:
        """Upload to the store rooted at `store_uri`."""
        self._store_uri = store_uri
        self._config = config
        self._command = [
            sys.executable,
            *("-m", "llmtrain_trainer.checkpoint.uploader"),
            json.dumps(config.dump()),
            store_uri,
        ]
        self._process: subprocess.Popen[str] | None = None

    @property
    def process_id(self) -> int | None:
        """The process, where one has been started."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process if none is there, without waiting for it."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )

    def upload(
        self, files: Sequence[Staged], *, on_digest: Callable[[list[ManifestObject]], None]
    ) -> list[ManifestObject]:
        """Upload files and return what they are as objects; `on_digest` hears it before.

        Raises:
            StoreError: the store failed, or the process died.
        """
        if sum(file.path.stat().st_size for file in files) < SMALL_BYTES:
            return _upload(files, self._store_uri, self._config, on_digest)
        self.start()
        self._send([{"path": str(file.path), "key": file.key} for file in files])
        objects = [ManifestObject.model_validate(item) for item in self._hear()["objects"]]
        on_digest(objects)
        self._hear()
        return objects

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        process, self._process = self._process, None
        assert process.stdin is not None
        assert process.stdout is not None
        process.kill()
        process.wait(STOP_SECONDS)
        process.stdin.close()
        process.stdout.close()

    def _send(self, job: Any) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{json.dumps(job)}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._explain_death() from None

    def _hear(self) -> dict[str, Any]:
        """Return the next answer of the process, or raise the failure that it is."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise self._explain_death()
        answer: dict[str, Any] = json.loads(line)
        if "failure" in answer:
            raise StoreError(**answer["failure"])
        return answer

    def _explain_death(self) -> UploaderDiedError:
        assert self._process is not None
        code = self._process.wait()
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        self.close()
        return UploaderDiedError(
            f"the uploading process ended by {how}",
            reason="UploaderDied",
            next_step="where it recurs, raise the memory of workers.resources",
        )


def main(storage: str, store_uri: str) -> None:
    """Serve one rank until it is gone."""
    os.nice(NICENESS)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a terminal sends them to all; the agent decides
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_jobs, args=(jobs,), daemon=True).start()
    config = StorageConfig.model_validate_json(storage)
    while True:
        job = [Staged(path=Path(i["path"]), key=i["key"]) for i in json.loads(jobs.get())]
        try:
            _upload(job, store_uri, config, on_digest=_answer_objects)
            _answer({})
        except StageError as error:
            failure = {"message": error.message, "reason": error.reason}
            _answer({"failure": {**failure, "next_step": error.next_step}})


def _upload(
    files: Sequence[Staged],
    store_uri: str,
    config: StorageConfig,
    on_digest: Callable[[list[ManifestObject]], None],
) -> list[ManifestObject]:
    """Upload files while they are digested, and let `on_digest` hear as soon as that is done."""

    def digest() -> list[ManifestObject]:
        objects = [describe_file(file.path, file.key) for file in files]
        on_digest(objects)
        return objects

    with ThreadPoolExecutor(1, thread_name_prefix="digest") as pool:
        digesting = pool.submit(digest)
        try:
            store = open_store(store_uri, config)
            for file in files:
                store.upload(file.key, file.path)
            return digesting.result()
        except OSError as error:
            raise StoreError(
                f"what was staged cannot be read: {error}", reason="StagingLost"
            ) from None


def _answer_objects(objects: Sequence[ManifestObject]) -> None:
    _answer({"objects": [item.dump() for item in objects]})


def _answer(value: Any) -> None:
    sys.stdout.write(f"{json.dumps(value)}\n")
    sys.stdout.flush()


def _read_jobs(jobs: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        jobs.put(line)
    os._exit(0)  # amid an upload, too: nobody is left who would commit it


if __name__ == "__main__":
    main(*sys.argv[1:])
