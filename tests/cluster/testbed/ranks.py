"""Real ranks of the trainer, forked warm, that tests watch, stop and kill.

A forkserver imports torch and the training stage once for all tests of a process; each rank is
forked from it in a fraction of a second. The test's own process serves the key-value store that
a launcher would serve.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from llmtrain_api.records import Stage, StageResult
from llmtrain_api.run import RunConfig
from llmtrain_trainer.progress import RankUpdate, Reporter
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.stages import STAGES

DEADLINE_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What shall happen to one rank of a round, at exactly which point of it."""

    rank: int = 0
    dies_in_pass: int | None = None
    """It kills itself by SIGKILL in that forward pass of training, counted from 1."""
    leaves_in_step: int | None = None
    """It is asked to save and leave in that step of the round, counted from 1."""


@dataclass(slots=True, kw_only=True)
class RankLog:
    """What one rank has said so far."""

    updates: list[RankUpdate] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    """The training samples that it read, in order."""
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
        self,
        config: RunConfig,
        *,
        round_number: int = 1,
        stage: Stage = Stage.TRAIN,
        staging: Path | None = None,
        fate: Fate | None = None,
    ) -> None:
        """Start the ranks of `config`; each worker stands for a host.

        `staging` has the hosts' memory, `worker-0` and so on, which rounds share that follow each
        other.
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
        per_worker = config.processes_per_worker
        for rank in range(config.world_size):
            group = RankGroup(
                rank=rank,
                world_size=config.world_size,
                local_rank=rank % per_worker,
                local_world_size=per_worker,
                round=round_number,
                store_port=self._store.port if self._store is not None else 0,
                staging=(str(staging / f"worker-{rank // per_worker}"),),
            )
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_run_rank, args=(config, stage, group, self._stop, theirs, fate), daemon=True
            )
            process.start()
            theirs.close()
            self._lines[ours] = rank
            self._processes.append(process)

    def find_pid(self, rank: int) -> int:
        """Return the process id of a rank."""
        pid = self._processes[rank].pid
        assert pid is not None
        return pid

    @property
    def process_ids(self) -> list[int]:
        """Process ids of the ranks, by rank."""
        return [process.pid for process in self._processes if process.pid is not None]

    def request_stop(self) -> None:
        """Ask the ranks to save and leave, as SIGTERM does."""
        self._stop.set()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every rank."""
        for process in self._processes:
            assert process.pid is not None
            os.kill(process.pid, number)

    def kill(self) -> None:
        """Kill every rank with SIGKILL."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()

    def has_died(self, rank: int) -> bool:
        """Whether a rank is gone."""
        return rank not in self._lines.values()

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
        elif isinstance(message, _SamplesRead):
            log.samples += message.samples
        elif isinstance(message, StageResult):
            log.result = message
        else:
            log.error = message


def run_ranks(config: RunConfig, *, round_number: int = 1, stage: Stage = Stage.TRAIN) -> RankLog:
    """Run all ranks to their end and return what rank 0 said."""
    ranks = RunningRanks(config, round_number=round_number, stage=stage)
    ranks.finish()
    return ranks.logs[0]


def _serve_store() -> Any:
    from torch.distributed import TCPStore  # only tests with several ranks pay for torch here

    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


@dataclass(frozen=True, slots=True)
class _SamplesRead:
    samples: list[int]


def _run_rank(
    config: RunConfig,
    stage: Stage,
    group: RankGroup,
    stop: Event,
    line: Connection,
    fate: Fate | None,
) -> None:
    from llmtrain_trainer.model.losses import compute_loss_sum
    from llmtrain_trainer.training import step

    should_stop: Callable[[], bool] = stop.is_set
    if fate is not None and fate.rank == group.rank:
        if fate.dies_in_pass is not None:
            is_last_pass = _count_calls(fate.dies_in_pass)

            def compute_or_die(*arguments: Any, **settings: Any) -> Any:
                if is_last_pass():
                    os.kill(os.getpid(), signal.SIGKILL)
                return compute_loss_sum(*arguments, **settings)

            _replace(step, "compute_loss_sum", compute_or_die)
        if fate.leaves_in_step is not None:
            should_stop = _count_calls(fate.leaves_in_step)
    _tell_samples(line)
    try:
        run = STAGES[stage].run
        line.send(run(config, group, Reporter(group.rank, line.send), should_stop))
    except Exception as error:
        line.send(error)


def _tell_samples(line: Connection) -> None:
    """Have every read of a split for training told; those for evaluations are another split's."""
    from llmtrain_trainer.dataset.loading import Dataset, open_run_dataset
    from llmtrain_trainer.training import opening

    def open_and_listen(*arguments: Any) -> Dataset:
        dataset = open_run_dataset(*arguments)
        read = dataset.train.read_sequences

        def read_and_tell(samples: Any, sequence_length: int) -> Any:
            line.send(_SamplesRead(samples.tolist()))
            return read(samples, sequence_length)

        _replace(dataset.train, "read_sequences", read_and_tell)
        return dataset

    _replace(opening, "open_run_dataset", open_and_listen)


def _replace(owner: object, name: str, function: Callable[..., Any]) -> None:
    """Put a function in the place of the one of that name."""
    assert hasattr(owner, name)
    setattr(owner, name, function)


def _count_calls(number: int) -> Callable[[], bool]:
    """Return a function that is true from its call of that number on."""
    calls = 0

    def is_reached() -> bool:
        nonlocal calls
        calls += 1
        return calls >= number

    return is_reached
