"""What a rank runs in each stage, and what must be loaded before it is forked.

Below: `prepare`, `train`, `evaluate`, imported only when they are called. Above: `__main__`
picks the stage of the pod, `launcher` and `rank_process` run it.

The agent imports this module, so nothing here may import torch.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmtrain_api.records import Stage, StageResult
from llmtrain_api.run import RunConfig
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.rank_group import RankGroup

RunStage = Callable[[RunConfig, RankGroup, Reporter, Callable[[], bool]], StageResult]


def serve_tcp_store(listener: socket.socket) -> Any:
    """Serve a round's key-value store at a listening socket; return the store to keep."""
    from torch.distributed import TCPStore

    host, port, *_ = listener.getsockname()
    return TCPStore(
        find_own_address(host),
        port,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEntry:
    """A stage as the agent knows it. It travels to the ranks, so its functions have names."""

    run: RunStage
    """Works through the stage as one rank: (config, group, reporter, should stop) → result."""

    preload: tuple[str, ...]
    """Modules that are imported once, before any rank is forked."""

    saves_when_stopped: bool = False
    """Whether its ranks save their state when they are asked to stop; else they are killed."""

    takes_steps: bool = False
    """Whether its ranks report steps, so that it is noticed when they stand still."""

    serve_store: Callable[[socket.socket], Any] = serve_tcp_store
    """Serves the round's key-value store at a listening socket, while what it returns lives."""


def find_own_address(host: str) -> str:
    """Return where this host reaches what it serves at `host`, which may stand for all of it."""
    address = ipaddress.ip_address(host)
    if not address.is_unspecified:
        return host
    return "127.0.0.1" if address.version == 4 else "::1"


def _prepare(
    config: RunConfig, group: RankGroup, reporter: Reporter, should_stop: Callable[[], bool]
) -> StageResult:
    from llmtrain_trainer.prepare import run_prepare

    # What it does comes and goes in minutes: its log says at which unit of work it is.
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format=f"%(asctime)s %(levelname)s prepare-{group.worker} %(message)s",
    )
    return run_prepare(config, reporter, group.worker)


def _train(
    config: RunConfig, group: RankGroup, reporter: Reporter, should_stop: Callable[[], bool]
) -> StageResult:
    from llmtrain_trainer.train import run_train

    return run_train(config, group, reporter, should_stop)


def _evaluate(
    config: RunConfig, group: RankGroup, reporter: Reporter, should_stop: Callable[[], bool]
) -> StageResult:
    from llmtrain_trainer.evaluate import run_evaluate

    return run_evaluate(config, group, reporter)


STAGES = {
    Stage.PREPARE: StageEntry(run=_prepare, preload=("llmtrain_trainer.prepare",)),
    Stage.TRAIN: StageEntry(
        run=_train,
        preload=("llmtrain_trainer.train",),
        saves_when_stopped=True,
        takes_steps=True,
    ),
    Stage.EVALUATE: StageEntry(run=_evaluate, preload=("llmtrain_trainer.evaluate",)),
}
