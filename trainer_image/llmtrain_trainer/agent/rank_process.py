"""What a forked rank does: hears its agent, works through its stage, and says how that ended.

Below: the stage's function. Above: `launcher` forks processes that run `run_rank`.

Two pipes join a rank to its agent. On the line it sends updates and, last, its ending. On the
other it hears orders; when that one closes, the agent is gone and the rank ends itself.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import socket
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.connection import Connection
from pathlib import Path

from llmtrain_api.records import ExitCode, StageResult
from llmtrain_api.run import RunConfig
from llmtrain_trainer.agent.diagnosis import diagnose_error
from llmtrain_trainer.failures import StageError
from llmtrain_trainer.linux import die_with_parent
from llmtrain_trainer.progress import RankUpdate, Reporter
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.stages import StageEntry

TORCH_DISTRIBUTED_ERROR = "DistError"
"""Base of the errors of torch's stores and backends. By name: not every stage imports torch."""

GLOO_MARK = "gloo/"
"""gloo raises plain RuntimeErrors that begin with the path of its source."""


STACKS_SIGNAL = signal.SIGUSR1
"""Asks a rank to write down where its threads are."""


class Order(StrEnum):
    """What an agent tells a rank."""

    STOP = "stop"
    """Save, and leave."""

    RELEASE = "release"
    """Nobody needs the key-value store any more that rank 0 serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankFinished:
    """The stage is done on this rank."""

    result: StageResult


@dataclass(frozen=True, slots=True, kw_only=True)
class RankFailed:
    """The stage ended with an error of its own."""

    error: StageError


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSevered:
    """The talk with other ranks broke off, which says that one of them is gone."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RankKilled:
    """The process ended without a word. The agent finds this; no rank says it."""

    exit_code: int
    """Negative: the number of the signal."""

    def describe(self) -> str:
        """Say what ended the process."""
        if self.exit_code >= 0:
            return f"ended with exit code {self.exit_code} and without a word"
        try:
            name = signal.Signals(-self.exit_code).name
        except ValueError:
            name = f"signal {-self.exit_code}"
        return f"was killed by {name}"


Ending = RankFinished | RankFailed | RankSevered | RankKilled
RankMessage = RankUpdate | RankFinished | RankFailed | RankSevered


def run_rank(
    stage: StageEntry,
    config: RunConfig,
    group: RankGroup,
    listener: socket.socket | None,
    stacks_path: Path,
    line: Connection,
    orders: Connection,
) -> None:
    """Run one rank in this process, and end the process with the exit code of its ending.

    Rank 0 of several serves the key-value store at `listener`, and outlives its stage until it
    is released: peers may still have to read what it left there. On `STACKS_SIGNAL` it writes
    where each of its threads is to `stacks_path`, whatever it is stuck in.
    """
    die_with_parent()
    gc.freeze()
    gc.enable()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a terminal sends them to all; the agent decides
    # Kept open for the life of the process: it is written to while nothing else may work any more.
    faulthandler.register(STACKS_SIGNAL, file=stacks_path.open("w"), all_threads=True)
    stop, release = threading.Event(), threading.Event()
    threading.Thread(target=_hear, args=(orders, stop, release), daemon=True).start()

    store = stage.serve_store(listener) if listener is not None else None

    def send(update: RankUpdate) -> None:
        with suppress(BrokenPipeError):  # the agent is gone, and this process about to be
            line.send(update)

    ending = _run_stage(stage, config, group, Reporter(group.rank, send), stop)
    line.send(ending)
    if store is not None:
        release.wait()
    sys.exit(_find_exit_code(ending))


def is_severed(error: BaseException) -> bool:
    """Whether an error of torch.distributed says that the talk with other ranks broke off."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return TORCH_DISTRIBUTED_ERROR in names or (
        isinstance(error, RuntimeError) and GLOO_MARK in str(error)
    )


def describe_unforeseen(error: BaseException) -> StageError:
    """Turn an exception that nobody foresaw into a failure that names its place."""
    if (known := diagnose_error(error)) is not None:
        return known
    place = ""
    if frames := traceback.extract_tb(error.__traceback__):
        place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})"
    return StageError(
        f"{type(error).__name__}: {error}{place}",
        reason="UnexpectedError",
        next_step="read the worker's log for the whole trace; it may be a defect of llmtrain",
    )


def _run_stage(
    stage: StageEntry,
    config: RunConfig,
    group: RankGroup,
    reporter: Reporter,
    stop: threading.Event,
) -> Ending:
    try:
        return RankFinished(result=stage.run(config, group, reporter, stop.is_set))
    except StageError as error:
        return RankFailed(error=error)
    except Exception as error:
        if diagnose_error(error) is None and is_severed(error):
            return RankSevered(message=str(error).splitlines()[0] if str(error) else repr(error))
        traceback.print_exception(error)
        return RankFailed(error=describe_unforeseen(error))


def _hear(orders: Connection, stop: threading.Event, release: threading.Event) -> None:
    while True:
        try:
            order = orders.recv()
        except (EOFError, OSError):
            os.kill(os.getpid(), signal.SIGKILL)
            return
        if order is Order.STOP:
            stop.set()
        elif order is Order.RELEASE:
            release.set()


def _find_exit_code(ending: Ending) -> ExitCode:
    if isinstance(ending, RankFinished):
        return ExitCode.SUCCEEDED
    if isinstance(ending, RankFailed):
        return ending.error.code
    return ExitCode.PEER_LOST
