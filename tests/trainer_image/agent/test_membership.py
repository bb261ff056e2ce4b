"""Reports and views over a real HTTP port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from llmtrain_api.records import Stage
from llmtrain_trainer.agent.board import Board
from llmtrain_trainer.agent.membership import (
    RENDEZVOUS_PATH,
    LeaderLine,
    LeaderSeat,
    Membership,
    find_hold_seconds,
    find_lease_seconds,
)
from llmtrain_trainer.agent.metrics import BoardCollector
from llmtrain_trainer.agent.rendezvous import Leader, MemberState, RoundPhase
from llmtrain_trainer.agent.server import build_application, serve
from llmtrain_trainer.failures import ConfigurationError
from testbed.processes import find_free_port
from testbed.tiny_run import configure_tiny_run

HOST = "127.0.0.1"
DEADLINE_SECONDS = 60.0
LONG_HOLD_SECONDS = 600.0
SHORT_HOLD_SECONDS = 0.1


class Port:
    """Where a leader answers, one after another."""

    def __init__(self, root: Path) -> None:
        self.number = find_free_port()
        self._config = configure_tiny_run(root, replicas=2)

    @asynccontextmanager
    async def lead(
        self, *, incarnation: int = 0, hold_seconds: float = LONG_HOLD_SECONDS
    ) -> AsyncIterator[LeaderSeat]:
        leader = Leader(
            replicas=2,
            boot=f"boot-{incarnation}",
            incarnation=incarnation,
            lease_seconds=3 * hold_seconds,
        )
        seat = LeaderSeat(leader, hold_seconds=hold_seconds)
        board = Board(stage=Stage.TRAIN, index=0, incarnation=incarnation, total_steps=1)
        collector = BoardCollector(board, self._config, stage=Stage.TRAIN, index=0)
        watching = asyncio.create_task(seat.watch_leases())
        async with serve(build_application(board, collector, seat), HOST, self.number):
            yield seat
        watching.cancel()


@pytest.fixture
def port(tmp_path: Path) -> Port:
    return Port(tmp_path)


class Member(Membership):
    """A membership that lets a test wait for something to hold."""

    def __init__(self, line: LeaderLine, incarnation: int, silence_seconds: float) -> None:
        self._news = asyncio.Event()
        super().__init__(
            line.exchange,
            index=1,
            incarnation=incarnation,
            silence_seconds=silence_seconds,
            on_change=self._news.set,
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not condition():
                await self._news.wait()
                self._news.clear()


@asynccontextmanager
async def join(
    port: Port, *, incarnation: int = 0, silence_seconds: float = LONG_HOLD_SECONDS
) -> AsyncIterator[Member]:
    line = LeaderLine(HOST, port.number, hold_seconds=LONG_HOLD_SECONDS)
    member = Member(line, incarnation, silence_seconds)
    keeping = asyncio.create_task(member.keep())
    try:
        yield member
    finally:
        keeping.cancel()
        await line.close()


def is_under_way(member: Member) -> bool:
    return member.view is not None and member.view.phase is RoundPhase.RUNNING


async def lead_first(seat: LeaderSeat, stack: AsyncExitStack, incarnation: int = 0) -> Membership:
    """Let worker 0 take part through its own seat."""
    first = Membership(
        seat.exchange,
        index=0,
        incarnation=incarnation,
        silence_seconds=LONG_HOLD_SECONDS,
        on_change=lambda: None,
    )
    keeping = asyncio.create_task(first.keep())
    stack.callback(keeping.cancel)
    return first


async def test_news_reaches_a_waiting_worker_at_once(port: Port) -> None:
    async with AsyncExitStack() as stack:
        seat = await stack.enter_async_context(port.lead())
        member = await stack.enter_async_context(join(port))
        await member.until(lambda: member.view is not None)
        assert member.view is not None
        assert (member.view.phase, member.view.missing) == (RoundPhase.GATHERING, (0,))
        first = await lead_first(seat, stack)
        await member.until(lambda: is_under_way(member))
        number = member.view.round
        assert not member.is_over(number)
        with seat.changing() as leader:
            leader.publish_store(number, 1234)
        await member.until(lambda: member.view is not None and member.view.store_port == 1234)
        first.declare(MemberState.IDLE, number)
        await member.until(lambda: member.is_over(number))


async def test_declarations_are_sent_while_a_report_waits(port: Port) -> None:
    async with AsyncExitStack() as stack:
        seat = await stack.enter_async_context(port.lead())
        member = await stack.enter_async_context(join(port))
        first = await lead_first(seat, stack)
        await member.until(lambda: is_under_way(member))
        number = member.view.round if member.view else 0
        for worker in (first, member):
            worker.declare(MemberState.RUNNING, number)
            worker.declare(MemberState.FINISHED, number)
        await member.until(
            lambda: member.view is not None and member.view.phase is RoundPhase.COMPLETE
        )
        await member.say_farewell(seconds=DEADLINE_SECONDS)
        assert seat.leader.has_left(1)
        await seat.until(lambda: seat.leader.has_left(1), seconds=0)


async def test_a_replaced_worker_learns_that_it_is(port: Port) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(port.lead(hold_seconds=SHORT_HOLD_SECONDS))
        old = await stack.enter_async_context(join(port))
        await old.until(lambda: old.view is not None)
        new = await stack.enter_async_context(join(port, incarnation=1))
        await new.until(lambda: new.view is not None)
        await old.until(lambda: bool(old.superseded))
        assert "incarnation 1 of it is there" in old.superseded
        assert not new.superseded


async def test_a_silent_worker_is_given_up(port: Port) -> None:
    async with AsyncExitStack() as stack:
        seat = await stack.enter_async_context(port.lead(hold_seconds=SHORT_HOLD_SECONDS))
        async with join(port) as member:
            await member.until(lambda: member.view is not None)
            assert list(seat.leader.view.missing) == [0]
        async with asyncio.timeout(DEADLINE_SECONDS):
            await seat.until(lambda: seat.leader.has_left(1), seconds=0.1)
            while not seat.leader.has_left(1):
                await seat.until(lambda: seat.leader.has_left(1), seconds=0.1)
        assert list(seat.leader.view.missing) == [0, 1]


async def test_a_leader_that_is_gone_ends_the_round_and_the_next_one_is_found(port: Port) -> None:
    async with AsyncExitStack() as stack:
        member = await stack.enter_async_context(join(port, silence_seconds=0.3))
        async with AsyncExitStack() as life:
            seat = await life.enter_async_context(port.lead(hold_seconds=SHORT_HOLD_SECONDS))
            await lead_first(seat, life)
            await member.until(lambda: is_under_way(member))
            number = member.view.round if member.view else 0
            member.declare(MemberState.RUNNING, number)
        await member.until(lambda: member.is_over(number))
        before = member.view
        member.declare(MemberState.IDLE, number)
        seat = await stack.enter_async_context(port.lead(incarnation=1))
        await lead_first(seat, stack, incarnation=1)
        await member.until(lambda: is_under_way(member) and member.view != before)
        assert member.view is not None
        assert member.view.round > number
        assert member.view.incarnation == 1


async def test_an_earlier_leader_that_still_answers_is_not_believed(port: Port) -> None:
    async with AsyncExitStack() as stack:
        member = await stack.enter_async_context(join(port, silence_seconds=0.3))
        async with port.lead(incarnation=1, hold_seconds=SHORT_HOLD_SECONDS):
            await member.until(lambda: member.view is not None)
        await stack.enter_async_context(port.lead(incarnation=0, hold_seconds=SHORT_HOLD_SECONDS))
        await member.until(lambda: member.is_over(0))
        assert member.view is not None
        assert member.view.incarnation == 1


@pytest.mark.parametrize("body", ["", "{}", '{"index": -1, "incarnation": 0}', "[1]"])
async def test_what_is_no_report_is_refused(port: Port, body: str) -> None:
    async with port.lead(), aiohttp.ClientSession() as session:
        url = f"http://{HOST}:{port.number}{RENDEZVOUS_PATH}"
        async with session.post(url, data=body) as answer:
            assert answer.status == 400


async def test_a_taken_port_is_named(port: Port) -> None:
    async with port.lead():
        with pytest.raises(ConfigurationError, match=f"{HOST}:{port.number}") as failed:
            async with port.lead():
                pass
        assert failed.value.reason == "PortTaken"


def test_a_lease_outlasts_several_holds() -> None:
    for workers in (1, 2, 100, 1000, 10_000):
        assert find_lease_seconds(workers) > 2 * find_hold_seconds(workers)
