"""Agents of the trainer as real processes, the workers of one run on this machine.

Below: `python -m llmtrain_trainer agent`. Above: the trainer's tests and benchmarks kill them and
their ranks, and read what they say.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llmtrain_api.records import ExitRecord, ProgressRecord, Stage
from llmtrain_api.run import RunConfig
from llmtrain_operator.world.local import FIRST_PORT, LAST_PORT, find_free_ports
from testbed.processes import ServerProcess

HOST = "127.0.0.1"
DEADLINE_SECONDS = 180.0
POLL_SECONDS = 0.02
RANK_COMMAND = "forkserver"
PORTS_LEFT = 1000
"""Room for the workers above the port that is drawn."""


class AgentProcess:
    """One incarnation of one worker."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        *,
        stage: Stage = Stage.TRAIN,
        index: int = 0,
        incarnation: int = 0,
    ) -> None:
        """Start the agent; its files lie in `folder`."""
        name = f"{config.name}-{stage.value}-{index}-{incarnation}"
        folder.mkdir(parents=True, exist_ok=True)
        self._record_path = folder / f"{name}.exit.json"
        self._port = config.find_port(stage, index)
        config_path = folder / f"{name}.json"
        config_path.write_text(json.dumps(config.dump()))
        self._process = ServerProcess(
            name,
            [
                sys.executable, "-m", "llmtrain_trainer", "agent",
                "--config", config_path,
                "--stage", stage.value,
                "--index", str(index),
                "--incarnation", str(incarnation),
                "--host", HOST,
                "--termination-log", self._record_path,
            ],
            log=folder / f"{name}.log",
        )  # fmt: skip
        self._process.start()

    @property
    def log(self) -> str:
        """What the agent and its ranks have written."""
        return self._process.log.read_text(errors="replace")

    def read_progress(self) -> ProgressRecord | None:
        """What `/progress` answers; None where it does not."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self._port}/progress") as answer:
                return ProgressRecord.read_lenient(json.load(answer))
        except OSError:
            return None

    def read_metrics(self) -> str:
        """What `/metrics` answers."""
        with urllib.request.urlopen(f"http://{HOST}:{self._port}/metrics") as answer:
            return str(answer.read().decode())

    def await_progress(self, holds: Callable[[ProgressRecord], bool]) -> ProgressRecord:
        """Wait until something holds for the progress; returns it."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            progress = self.read_progress()
            if progress is not None and holds(progress):
                return progress
            if not self._process.running or time.monotonic() > deadline:
                raise TimeoutError(f"progress is {progress}\n{self.log}")
            time.sleep(POLL_SECONDS)

    def list_ranks(self) -> list[int]:
        """Return the process ids of its ranks, oldest first."""
        return list_rank_processes(self._process.pid)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the agent alone."""
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Kill the agent and everything that it started, as the end of a pod does."""
        self._process.kill()

    def finish(self) -> ExitRecord:
        """Wait for its end; return its exit record, which agrees with its exit code."""
        code = self._process.wait(seconds=DEADLINE_SECONDS)
        if not self._record_path.exists():
            raise RuntimeError(f"the agent ended with {code} and no exit record\n{self.log}")
        record = ExitRecord.read_lenient(json.loads(self._record_path.read_text()))
        assert record.code == code, self.log
        return record


@contextmanager
def run_agents(
    config: RunConfig, folder: Path, *, incarnation: int = 0
) -> Iterator[list[AgentProcess]]:
    """Start the agents of all workers of the training stage; none is left after the block.

    What a test appends to the list is ended, too.
    """
    agents = [
        AgentProcess(config, folder, index=index, incarnation=incarnation)
        for index in range(config.replicas)
    ]
    try:
        yield agents
    finally:
        for agent in agents:
            agent.kill()


def give_ports(config: RunConfig) -> RunConfig:
    """Return the run with ports that are free now, one after another for its workers."""
    # Below the ports of outgoing connections: one of those may take the next at any moment.
    first = find_free_ports(config.replicas, random.randrange(FIRST_PORT, LAST_PORT - PORTS_LEFT))
    rendezvous = config.rendezvous.model_copy(update={"port": first, "port_per_worker": True})
    return config.model_copy(update={"rendezvous": rendezvous})


def list_rank_processes(agent: int) -> list[int]:
    """Return the process ids of an agent's ranks, oldest first."""
    (server,) = (
        pid
        for pid in _list_children(agent)
        if RANK_COMMAND in Path(f"/proc/{pid}/cmdline").read_text()
    )
    return sorted(_list_children(server))


def _list_children(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in children.split()]
