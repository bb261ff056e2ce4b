"""A task of preparation in a process of its own, which dies or stands still where it is told to.

Below: `prepare` of the trainer, really run. Above: tests of several tasks.

What a task is at is what it logs, as "begins read/000002". At a line that begins with `--die-at` it
is killed with SIGKILL, by itself, so that nothing of it is done any more; at one that begins with
`--hold-at` it stands still until the file `--until` is there, while it still shows that it lives.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from llmtrain_api.records import StageResult
from llmtrain_api.run import RunConfig
from llmtrain_trainer.preparation.claims import Pace
from llmtrain_trainer.preparation.tasks import UnitSizes
from llmtrain_trainer.prepare import run_prepare
from llmtrain_trainer.progress import Reporter
from testbed.processes import wait_until

DEADLINE_SECONDS = 120.0

READ_BYTES = 30_000
"""Of a unit: a source file of JSON lines that is twice as large is several."""

ENCODE_CHARACTERS = 30_000

FOREVER_SECONDS = 3600.0


class Tasks:
    """Tasks of runs, each with its log in a folder; none is left when the block ends."""

    def __init__(self, folder: Path, *, dead_seconds: float = FOREVER_SECONDS) -> None:
        self._folder = folder
        self._dead_seconds = dead_seconds
        self._running: list[subprocess.Popen[bytes]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Tasks:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._running:
            process.kill()
            process.wait()

    def start(self, config: RunConfig, task: int, **orders: str) -> subprocess.Popen[bytes]:
        """Start a task, with `die_at`, or `hold_at` and `until`."""
        path = self._folder / f"{config.name}.json"
        path.write_text(config.model_dump_json(by_alias=True))
        command = [sys.executable, "-m", "testbed.task_process", str(path), str(task)]
        command += [f"--dead-seconds={self._dead_seconds}"]
        command += [f"--{name.replace('_', '-')}={value}" for name, value in orders.items()]
        search = os.pathsep.join(path for path in sys.path if path)
        with self._locate_log(config, task).open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": search}
            )
        self._running.append(process)
        return process

    def finish(self, process: subprocess.Popen[bytes]) -> int:
        """Return how a process ended."""
        return process.wait(DEADLINE_SECONDS)

    def await_line(self, config: RunConfig, task: int, line: str) -> None:
        """Wait until a task has logged a line that begins so."""

        def is_there() -> bool:
            return any(said.startswith(line) for said in self.read_log(config, task).splitlines())

        wait_until(is_there, seconds=DEADLINE_SECONDS, what=f"a task to say {line!r}")

    def read_log(self, config: RunConfig, task: int) -> str:
        """Return what the task logged, in all of its lives."""
        return self._locate_log(config, task).read_text()

    def read_result(self, config: RunConfig, task: int) -> StageResult:
        """Return the result that the task's last life left."""
        lines = self.read_log(config, task).splitlines()
        results = [line.removeprefix("result ") for line in lines if line.startswith("result ")]
        return StageResult.model_validate_json(results[-1])

    def count_units(self, config: RunConfig) -> Mapping[str, int]:
        """Return how often each unit was done, by whichever task of a run."""
        logs = self._folder.glob(f"{config.name}-*.log")
        lines = [line for log in logs for line in log.read_text().splitlines()]
        return Counter(line.removeprefix("did ") for line in lines if line.startswith("did "))

    def _locate_log(self, config: RunConfig, task: int) -> Path:
        return self._folder / f"{config.name}-{task}.log"


class Obedience(logging.Handler):
    """Dies or stands still at a line of the log."""

    def __init__(self, die_at: str | None, hold_at: str | None, until: Path | None) -> None:
        super().__init__()
        self._die_at = die_at
        self._hold_at = hold_at
        self._until = until

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line for an order."""
        line = record.getMessage()
        if self._die_at is not None and line.startswith(self._die_at):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._hold_at is not None and line.startswith(self._hold_at):
            assert self._until is not None
            while not self._until.exists():
                time.sleep(0.05)


def main() -> None:
    """Run a task to its end, and print its result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("task", type=int)
    parser.add_argument("--dead-seconds", type=float, required=True)
    parser.add_argument("--die-at")
    parser.add_argument("--hold-at")
    parser.add_argument("--until", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    logging.getLogger().addHandler(Obedience(arguments.die_at, arguments.hold_at, arguments.until))
    result = run_prepare(
        RunConfig.model_validate_json(arguments.config.read_bytes()),
        Reporter(0, lambda update: None),
        arguments.task,
        pace=Pace(beat_seconds=0.1, dead_seconds=arguments.dead_seconds, poll_seconds=0.2),
        sizes=UnitSizes(read_bytes=READ_BYTES, encode_characters=ENCODE_CHARACTERS),
    )
    print(f"result {result.model_dump_json(by_alias=True)}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
