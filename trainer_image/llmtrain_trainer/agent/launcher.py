"""Ranks as processes, forked from a server that has torch and the model code loaded already.

Below: multiprocessing's forkserver, `rank_process` (what a rank does). Above: `supervision`.

Importing torch and transformers takes seconds of processor time, which is most of any restart.
The server pays once, before the workers have even met; a rank forked from it is at work in a
fraction of a second. It must start no thread and touch no device: both do not survive a fork.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import multiprocessing
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from multiprocessing.forkserver import ensure_running
from pathlib import Path

from llmtrain_api.run import RunConfig
from llmtrain_trainer.agent.rank_process import (
    STACKS_SIGNAL,
    Ending,
    Order,
    RankFinished,
    RankKilled,
    RankMessage,
    run_rank,
)
from llmtrain_trainer.progress import RankUpdate
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.stages import StageEntry

logger = logging.getLogger(__name__)

UNCOLLECTED = "llmtrain_trainer.agent.uncollected"
"""The module that switches the garbage collector off when it is imported."""

STORE_BACKLOG = 4096
"""Ranks that may knock at the key-value store before rank 0 answers."""

STACKS_SECONDS = 2.0
"""How long ranks may take to write down where their threads are."""

STACKS_POLL_SECONDS = 0.05

RELEASE_SECONDS = 2.0
"""How long ranks that are done may take to end by themselves."""


class ForkError(Exception):
    """No rank could be forked; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rank:
    """A rank's process, and the agent's ends of the two pipes to it."""

    number: int
    process: ForkServerProcess
    line: Connection
    orders: Connection
    stacks_path: Path


class Launcher:
    """Forks the ranks of a pod, one round after the other."""

    def __init__(
        self,
        stage: StageEntry,
        config: RunConfig,
        *,
        store_address: str,
        on_update: Callable[[RankUpdate], None],
        on_change: Callable[[], None],
    ) -> None:
        """Prepare to fork ranks that work through `stage`.

        Args:
            stage: What a rank runs, and what the server loads for it.
            config: What the run is told.
            store_address: Where rank 0 serves the round's key-value store.
            on_update: Is handed every update of a rank.
            on_change: Called when a rank ends.
        """
        self._stage = stage
        self._config = config
        self._store_address = store_address
        self._on_update = on_update
        self._on_change = on_change
        self._stacks_folder = Path(tempfile.mkdtemp(prefix="llmtrain-stacks-"))
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([UNCOLLECTED, *stage.preload])

    def close(self) -> None:
        """Remove what was written for people to look at, once it has been kept elsewhere."""
        shutil.rmtree(self._stacks_folder, ignore_errors=True)

    def warm(self) -> None:
        """Start the server, which then loads what ranks need, without waiting for it."""
        ensure_running()

    async def start(self, groups: Sequence[RankGroup]) -> RunningRanks:
        """Fork a rank for each group; waits until the server is warm.

        Raises:
            ForkError: the server died, or the machine gives no more processes.
        """
        ranks, port = await asyncio.to_thread(self._fork_all, groups)
        return RunningRanks(
            ranks, store_port=port, on_update=self._on_update, on_change=self._on_change
        )

    def _fork_all(self, groups: Sequence[RankGroup]) -> tuple[list[_Rank], int | None]:
        """Fork the ranks; return them and the port of rank 0's store, where it is among them."""
        ranks: list[_Rank] = []
        listener = None
        try:
            if any(group.rank == 0 and group.world_size > 1 for group in groups):
                # The agent listens and rank 0 answers: peers that come first are kept waiting,
                # and its port is known before any rank is forked.
                listener = _listen(self._store_address)
                port = listener.getsockname()[1]
                groups = [replace(group, store_port=port) for group in groups]
            ranks.extend(
                self._fork(group, listener if group.rank == 0 else None) for group in groups
            )
            return ranks, None if listener is None else port
        except (OSError, EOFError) as error:
            for rank in ranks:
                rank.process.kill()
            raise ForkError(
                f"no rank could be forked: {type(error).__name__}: {error}".rstrip(": ")
            ) from error
        finally:
            if listener is not None:
                listener.close()

    def _fork(self, group: RankGroup, listener: socket.socket | None) -> _Rank:
        line, rank_line = self._context.Pipe(duplex=False)
        rank_orders, orders = self._context.Pipe(duplex=False)
        stacks_path = self._stacks_folder / f"rank-{group.rank}.txt"
        process = self._context.Process(
            target=run_rank,
            args=(
                self._stage,
                self._config,
                group,
                listener,
                stacks_path,
                rank_line,
                rank_orders,
            ),
            name=f"rank-{group.rank}",
        )
        try:
            process.start()
        finally:
            # The rank has its own copies: with ours closed, its death closes the pipes.
            rank_line.close()
            rank_orders.close()
        return _Rank(
            number=group.rank,
            process=process,
            line=line,
            orders=orders,
            stacks_path=stacks_path,
        )


class RunningRanks:
    """The ranks of one round in this pod, from their start until `kill`."""

    def __init__(
        self,
        ranks: Iterable[_Rank],
        *,
        store_port: int | None,
        on_update: Callable[[RankUpdate], None],
        on_change: Callable[[], None],
    ) -> None:
        """Listen to ranks on the running event loop."""
        self._ranks = {rank.number: rank for rank in ranks}
        self._on_update = on_update
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self.endings: dict[int, Ending] = {}
        """How ranks ended, by global rank, first ended first."""
        self.store_port = store_port
        """Where rank 0 serves the round's key-value store, if it is one of these."""
        for rank in self._ranks.values():
            self._loop.add_reader(rank.line.fileno(), self._hear, rank)
            self._loop.add_reader(rank.process.sentinel, self._note_end, rank)

    def __len__(self) -> int:
        """Return the number of ranks."""
        return len(self._ranks)

    @property
    def process_ids(self) -> dict[int, int]:
        """Process ids by global rank."""
        return {
            number: rank.process.pid
            for number, rank in self._ranks.items()
            if rank.process.pid is not None
        }

    def send(self, order: Order) -> None:
        """Tell every rank; those that have ended do not hear it."""
        for rank in self._ranks.values():
            with contextlib.suppress(OSError):
                rank.orders.send(order)

    async def collect_stacks(self) -> str:
        """Return where every thread of every rank is, as far as they can still say so."""
        for rank in self._ranks.values():
            if rank.process.pid is not None and rank.process.exitcode is None:
                os.kill(rank.process.pid, STACKS_SIGNAL)
        paths = [rank.stacks_path for rank in self._ranks.values()]
        await asyncio.to_thread(_await_texts, paths, seconds=STACKS_SECONDS)
        return "\n".join(
            f"rank {number}:\n{_read_stacks(rank.stacks_path)}"
            for number, rank in self._ranks.items()
        )

    async def kill(self) -> None:
        """End every rank: those that are done by themselves, all others at once."""
        self.send(Order.RELEASE)
        for rank in self._ranks.values():
            if not isinstance(self.endings.get(rank.number), RankFinished):
                rank.process.kill()
        await asyncio.to_thread(self._join)
        for rank in self._ranks.values():
            self._loop.remove_reader(rank.line.fileno())
            self._loop.remove_reader(rank.process.sentinel)
            rank.line.close()
            rank.orders.close()
            rank.process.close()
        self._ranks.clear()

    def _join(self) -> None:
        for rank in self._ranks.values():
            rank.process.join(RELEASE_SECONDS)
            if rank.process.exitcode is None:
                rank.process.kill()
                rank.process.join()

    def _hear(self, rank: _Rank) -> None:
        """Take in everything that a rank has said."""
        try:
            while rank.line.poll():
                self._take(rank, rank.line.recv())
        except (EOFError, OSError):
            # It has closed its end: what is left to learn is its exit code.
            self._loop.remove_reader(rank.line.fileno())

    def _take(self, rank: _Rank, message: RankMessage) -> None:
        if isinstance(message, RankUpdate):
            self._on_update(message)
            return
        self.endings.setdefault(rank.number, message)
        self._on_change()

    def _note_end(self, rank: _Rank) -> None:
        """Note that a rank's process has ended, with whatever it still said before."""
        self._loop.remove_reader(rank.process.sentinel)
        self._hear(rank)
        exit_code = rank.process.exitcode
        assert exit_code is not None
        self.endings.setdefault(rank.number, RankKilled(exit_code=exit_code))
        self._on_change()


def _listen(address: str) -> socket.socket:
    """Listen at a free port of an address; torch itself would listen at every address."""
    is_ipv6 = ipaddress.ip_address(address).version == 6
    family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
    return socket.create_server((address, 0), family=family, backlog=STORE_BACKLOG)


def _await_texts(paths: Sequence[Path], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not all(map(_has_text, paths)):
        time.sleep(STACKS_POLL_SECONDS)


def _has_text(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _read_stacks(path: Path) -> str:
    return path.read_text(errors="replace") if _has_text(path) else "does not answer any signal\n"
