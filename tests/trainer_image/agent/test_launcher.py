"""Ranks as real processes, forked from a real server."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from multiprocessing.util import get_temp_dir
from pathlib import Path

import pytest

from llmtrain_api.records import ExitCode, StageResult
from llmtrain_trainer.agent.launcher import ForkError, Launcher, RunningRanks
from llmtrain_trainer.agent.rank_process import (
    Order,
    RankFailed,
    RankFinished,
    RankKilled,
    RankSevered,
)
from llmtrain_trainer.failures import PreemptedError
from llmtrain_trainer.progress import RankUpdate
from llmtrain_trainer.rank_group import RankGroup
from testbed.processes import accepts_connections, is_alive
from testbed.stand_in_stage import STAND_IN_STAGE
from testbed.tiny_run import configure_tiny_run

DEADLINE_SECONDS = 60.0


@dataclass
class Pod:
    """A launcher, and what it tells."""

    launcher: Launcher
    updates: list[RankUpdate] = field(default_factory=list)

    async def start(self, num_ranks: int) -> RunningRanks:
        groups = [
            RankGroup(rank=rank, world_size=num_ranks, local_rank=rank, local_world_size=num_ranks)
            for rank in range(num_ranks)
        ]
        return await self.launcher.start(groups)


def launch(root: Path, name: str, story: Callable[[Pod], Awaitable[None]]) -> None:
    async def tell() -> None:
        config = configure_tiny_run(root, run=name)
        updates: list[RankUpdate] = []
        launcher = Launcher(
            STAND_IN_STAGE,
            config,
            store_address="127.0.0.1",
            on_update=updates.append,
            on_change=lambda: None,
        )
        await story(Pod(launcher, updates))

    asyncio.run(tell())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


def find_parent(pid: int) -> int:
    """The process that a rank was forked from: the server."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_ranks_finish_and_only_rank_0_waits_for_its_release(tmp_path: Path) -> None:
    async def story(pod: Pod) -> None:
        ranks = await pod.start(2)
        pids = ranks.process_ids
        await until(lambda: len(ranks.endings) == 2 and not is_alive(pids[1]))
        assert ranks.store_port is not None
        assert accepts_connections("127.0.0.1", ranks.store_port)
        assert ranks.endings[0] == RankFinished(result=StageResult(step=0))
        assert ranks.endings[1] == RankFinished(result=StageResult(step=1))
        assert {update.rank for update in pod.updates} == {0, 1}
        assert is_alive(pids[0])
        await ranks.kill()
        assert not is_alive(pids[0])
        assert not accepts_connections("127.0.0.1", ranks.store_port)

    launch(tmp_path, "finish", story)


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("fail", ExitCode.DATA, "line 3 is bad"),
        ("fry", ExitCode.DEVICE_FAULT, "CUDA error: uncorrectable ECC error"),
        ("break", ExitCode.BUG, "KeyError: 'x' (stand_in_stage.py:"),
    ],
)
def test_an_error_comes_back_with_its_name(
    tmp_path: Path, name: str, code: ExitCode, said: str
) -> None:
    async def story(pod: Pod) -> None:
        ranks = await pod.start(1)
        await until(lambda: bool(ranks.endings))
        ending = ranks.endings[0]
        assert isinstance(ending, RankFailed)
        assert ending.error.code is code
        assert said in ending.error.message
        await ranks.kill()

    launch(tmp_path, name, story)


def test_a_talk_that_broke_off_is_told_from_a_defect(tmp_path: Path) -> None:
    async def story(pod: Pod) -> None:
        ranks = await pod.start(1)
        await until(lambda: bool(ranks.endings))
        assert isinstance(ranks.endings[0], RankSevered)
        await ranks.kill()

    launch(tmp_path, "sever", story)


def test_a_killed_rank_is_noticed_and_the_others_are_ended(tmp_path: Path) -> None:
    async def story(pod: Pod) -> None:
        ranks = await pod.start(2)
        pids = ranks.process_ids
        await until(lambda: len(pod.updates) == 2)
        os.kill(pids[1], signal.SIGKILL)
        await until(lambda: bool(ranks.endings))
        assert ranks.endings == {1: RankKilled(exit_code=-signal.SIGKILL)}
        await ranks.kill()
        assert not is_alive(pids[0])

    launch(tmp_path, "wait", story)


def test_ranks_hear_that_they_shall_stop(tmp_path: Path) -> None:
    async def story(pod: Pod) -> None:
        ranks = await pod.start(2)
        await until(lambda: len(pod.updates) == 2)
        ranks.send(Order.STOP)
        await until(lambda: len(ranks.endings) == 2)
        for ending in ranks.endings.values():
            assert isinstance(ending, RankFailed)
            assert isinstance(ending.error, PreemptedError)
        await ranks.kill()

    launch(tmp_path, "wait", story)


def test_terminal_signals_are_left_to_the_agent(tmp_path: Path) -> None:
    async def story(pod: Pod) -> None:
        ranks = await pod.start(1)
        await until(lambda: len(pod.updates) == 1)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(ranks.process_ids[0], number)
        ranks.send(Order.STOP)
        await until(lambda: bool(ranks.endings))
        assert isinstance(ranks.endings[0], RankFailed)
        await ranks.kill()

    launch(tmp_path, "wait", story)


def test_ranks_die_with_the_server_and_the_next_ones_get_a_new_one(tmp_path: Path) -> None:
    async def story(pod: Pod) -> None:
        ranks = await pod.start(1)
        (pid,) = ranks.process_ids.values()
        await until(lambda: bool(pod.updates))
        os.kill(find_parent(pid), signal.SIGKILL)
        await until(lambda: not is_alive(pid))
        await until(lambda: bool(ranks.endings))
        assert isinstance(ranks.endings[0], RankKilled)
        await ranks.kill()

        ranks = await pod.start(1)
        await until(lambda: len(pod.updates) >= 2)
        await ranks.kill()

    launch(tmp_path, "wait", story)


def test_a_server_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    async def story(pod: Pod) -> None:
        ranks = await pod.start(1)
        (pid,) = ranks.process_ids.values()
        server = find_parent(pid)
        await ranks.kill()
        for socket in Path(get_temp_dir()).glob("listener-*"):
            socket.unlink()
        with pytest.raises(ForkError, match="no rank could be forked: FileNotFoundError"):
            await pod.start(1)
        os.kill(server, signal.SIGKILL)

    launch(tmp_path, "wait", story)
