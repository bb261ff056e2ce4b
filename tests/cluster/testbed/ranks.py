"""Real ranks of the trainer, forked warm, that tests watch, stop and kill.

A forkserver imports torch and the training stage once for all tests of a process; each rank is
forked from it in a fraction of a second. The test's own process serves the key-value store that
a launcher would serve.
"""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from llmtrain_api.records import StageResult
from llmtrain_api.run import RunConfig
from llmtrain_trainer.progress import RankGroup, RankUpdate, Reporter

DEADLINE_SECONDS = 120.0


@dataclass(slots=True, kw_only=True)
class RankLog:
    """What one rank has said so far."""

    updates: list[RankUpdate] = field(default_factory=list)
    result: StageResult | None = None
    error: BaseException | None = None

    @property
    def step(self) -> int:
        """The newest step it reported."""
        return self.updates[-1].step if self.updates else 0

    def list_facts(self, name: str) -> list[float]:
        """Return every value that it reported of a fact, in order."""
        return [float(u.facts[name]) for u in self.updates if name in u.facts]


class RunningRanks:
    """All ranks of one round."""

    def __init__(
        self, config: RunConfig, *, round_number: int = 1, staging: Path | None = None
    ) -> None:
        """Start the ranks of `config`, all of them on this host.

        `staging` is the host's memory, which rounds share that follow each other.
        """
        if staging is None:
            staging = Path(tempfile.mkdtemp(prefix="llmtrain-ranks-"))
            weakref.finalize(self, shutil.rmtree, staging, ignore_errors=True)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["llmtrain_trainer.train"])
        self._stop: Event = context.Event()
        self._store = _serve_store() if config.world_size > 1 else None
        self.logs = [RankLog() for _ in range(config.world_size)]
        self._processes = []
        self._lines: dict[Connection, int] = {}
        for rank in range(config.world_size):
            group = RankGroup(
                rank=rank,
                world_size=config.world_size,
                local_rank=rank,
                local_world_size=config.world_size,
                round=round_number,
                store_port=self._store.port if self._store is not None else 0,
                staging=(str(staging),),
            )
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_run_rank, args=(config, group, self._stop, theirs), daemon=True
            )
            process.start()
            theirs.close()
            self._lines[ours] = rank
            self._processes.append(process)

    def request_stop(self) -> None:
        """Ask the ranks to save and leave, as SIGTERM does."""
        self._stop.set()

    def kill(self) -> None:
        """Kill every rank with SIGKILL."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()

    def watch(self, until: Callable[[], bool] = lambda: False) -> None:
        """Read what the ranks say until `until` holds or all have ended."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self._lines and not until():
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"ranks are at steps {[log.step for log in self.logs]}")
            for line in wait(list(self._lines), timeout=1.0):
                assert isinstance(line, Connection)
                self._read(line)

    def finish(self) -> list[StageResult]:
        """Wait for the ranks to end; return their results, or raise what rank 0 met first."""
        self.watch()
        for process in self._processes:
            process.join()
        for log in self.logs:
            if log.error is not None:
                raise log.error
        results = [log.result for log in self.logs if log.result is not None]
        assert len(results) == len(self.logs), "a rank died without a word"
        return results

    def _read(self, line: Connection) -> None:
        log = self.logs[self._lines[line]]
        try:
            message: Any = line.recv()
        except (EOFError, ConnectionResetError):
            del self._lines[line]
            return
        if isinstance(message, RankUpdate):
            log.updates.append(message)
        elif isinstance(message, StageResult):
            log.result = message
        else:
            log.error = message


def run_ranks(config: RunConfig, *, round_number: int = 1) -> RankLog:
    """Run all ranks to their end and return what rank 0 said."""
    ranks = RunningRanks(config, round_number=round_number)
    ranks.finish()
    return ranks.logs[0]


def _serve_store() -> Any:
    from torch.distributed import TCPStore  # only tests with several ranks pay for torch here

    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def _run_rank(config: RunConfig, group: RankGroup, stop: Event, line: Connection) -> None:
    from llmtrain_trainer.train import run_train

    try:
        line.send(run_train(config, group, Reporter(group.rank, line.send), stop.is_set))
    except Exception as error:
        line.send(error)
