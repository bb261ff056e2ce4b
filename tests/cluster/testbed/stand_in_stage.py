"""A stage without torch, whose ranks do what the run's name says: finish, fail, break, fry a GPU,
sever, or wait.

Below: the trainer's `StageEntry`. Above: tests of the launcher. It is a module of its own because
forked ranks import it by name.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

from llmtrain_api.records import RankPhase, StageResult
from llmtrain_api.run import RunConfig
from llmtrain_trainer.failures import DataError, PreemptedError
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.stages import StageEntry


def _work(
    config: RunConfig, group: RankGroup, reporter: Reporter, should_stop: Callable[[], bool]
) -> StageResult:
    reporter.enter(RankPhase.TRAINING)
    if config.name == "finish":
        return StageResult(step=group.rank)
    if config.name == "fail":
        raise DataError("line 3 is bad", reason="BadLine")
    if config.name == "break":
        raise KeyError("x")
    if config.name == "fry":
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
    if config.name == "sever":
        raise RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] closed")
    while not should_stop():
        time.sleep(0.01)
    raise PreemptedError("saved", reason="Preempted")


def _serve_store(listener: socket.socket) -> Any:
    return listener


STAND_IN_STAGE = StageEntry(run=_work, preload=(), serve_store=_serve_store)
