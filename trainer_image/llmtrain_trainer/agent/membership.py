"""Carrying reports to the leader and its views back: long polls over HTTP, leases, farewells.

Below: `rendezvous` (who decides), aiohttp. Above: `server` hands the workers' reports to the
`LeaderSeat` of worker 0, and each agent keeps a `Membership`: worker 0's with its own seat, the
others' over a `LeaderLine`.

A worker always has one report under way. The leader answers it when it has something new to say,
or after the hold time, so that a change reaches every worker at once and silence says that the
leader is gone.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import aiohttp
from pydantic import ValidationError

from llmtrain_trainer.agent.rendezvous import (
    Leader,
    MemberReport,
    MemberState,
    RoundPhase,
    RoundView,
    SupersededError,
)

logger = logging.getLogger(__name__)

RENDEZVOUS_PATH = "/rendezvous"
SUPERSEDED_STATUS = 409

MIN_HOLD_SECONDS = 2.0
WORKERS_PER_HOLD_SECOND = 100
"""A leader answers at most about this many workers a second while nothing happens."""

LEASE_HOLDS = 3.0
"""Hold times of silence after which a worker, or the leader, counts as gone."""

ANSWER_SECONDS = 3.0
"""How much later than the hold time an answer may come."""

CONNECT_SECONDS = 2.0
RETRY_SECONDS = 0.2

Exchange = Callable[[MemberReport], Awaitable[RoundView]]


class LeaderSilentError(Exception):
    """The leader did not answer, or not as one; the message says how."""


def find_hold_seconds(num_workers: int) -> float:
    """Return how long the leader keeps a report when it has nothing new to say."""
    return max(MIN_HOLD_SECONDS, num_workers / WORKERS_PER_HOLD_SECOND)


def find_lease_seconds(num_workers: int) -> float:
    """Return the silence after which the other side counts as gone."""
    return LEASE_HOLDS * find_hold_seconds(num_workers) + ANSWER_SECONDS


class LeaderSeat:
    """The leader, and those who wait for its word. On worker 0 only."""

    def __init__(
        self,
        leader: Leader,
        *,
        hold_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Let workers wait up to `hold_seconds` for news from `leader`."""
        self.leader = leader
        self._hold_seconds = hold_seconds
        self._lease_check_seconds = hold_seconds / 2
        self._clock = clock
        self._news = asyncio.Event()

    @contextmanager
    def changing(self) -> Iterator[Leader]:
        """Give the leader for a change; those who wait hear of it after the block."""
        before = self.leader.version
        yield self.leader
        if self.leader.version != before:
            self._news.set()
            self._news = asyncio.Event()

    async def exchange(self, report: MemberReport) -> RoundView:
        """Take a worker's report; return the view once it is newer than the one it has.

        Raises:
            SupersededError: a newer incarnation of that worker has reported.
            ValueError: there is no worker of that index.
        """
        with self.changing() as leader:
            leader.hear(report, self._clock())
        view = self.leader.view
        has_it = (report.seen_boot, report.seen_version) == (view.boot, view.version)
        if has_it and report.state is not MemberState.LEFT:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), self._hold_seconds)
        return self.leader.view

    async def until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait until what is known of the workers meets a condition, or that long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition():
                    await self._news.wait()

    async def watch_leases(self) -> None:
        """Give up silent workers, until cancelled."""
        while True:
            await asyncio.sleep(self._lease_check_seconds)
            with self.changing() as leader:
                leader.expire(self._clock())


class LeaderLine:
    """The way to the leader, from every worker but 0."""

    def __init__(self, host: str, port: int, *, hold_seconds: float) -> None:
        """Speak to the agent at `host`:`port`, whose address may change when it is replaced."""
        self._host = host
        self._port = port
        self._timeout = aiohttp.ClientTimeout(
            total=hold_seconds + ANSWER_SECONDS, sock_connect=CONNECT_SECONDS
        )
        self._session: aiohttp.ClientSession | None = None
        self.address = host
        """Network address that the leader last answered at: rank 0 serves its store there."""

    async def exchange(self, report: MemberReport) -> RoundView:
        """Send a report; return the leader's answer.

        Raises:
            SupersededError: a newer incarnation of this worker has reported.
            LeaderSilentError: no answer, or none of a leader.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        try:
            address = await self._resolve()
            url = f"http://{_bracket(address)}:{self._port}{RENDEZVOUS_PATH}"
            async with self._session.post(url, json=report.dump()) as response:
                text = await response.text()
        except (aiohttp.ClientError, OSError) as error:
            raise LeaderSilentError(f"{type(error).__name__}: {error}") from error
        if response.status == SUPERSEDED_STATUS:
            raise SupersededError(text)
        if response.status != 200:
            raise LeaderSilentError(f"{url} answered {response.status}: {text[:200]}")
        try:
            view = RoundView.read_lenient(json.loads(text))
        except (json.JSONDecodeError, ValidationError) as error:
            raise LeaderSilentError(f"{url} answered what is no view: {text[:200]}") from error
        self.address = address
        return view

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def _resolve(self) -> str:
        # Anew each time: a replaced worker 0 keeps its name and has another address.
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        return str(found[0][4][0])


class Membership:
    """A worker's part: what it last told the leader, and what the leader last told it."""

    def __init__(
        self,
        exchange: Exchange,
        *,
        index: int,
        incarnation: int,
        silence_seconds: float,
        on_change: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Report as a worker through `exchange`.

        Args:
            exchange: Sends a report and returns the leader's view.
            index: The worker's index.
            incarnation: Which life of that worker this is.
            silence_seconds: A leader that is silent for so long counts as gone.
            on_change: Called whenever there may be news.
            clock: Gives monotonic seconds.
        """
        self._exchange = exchange
        self._report = MemberReport(index=index, incarnation=incarnation)
        self._silence_seconds = silence_seconds
        self._on_change = on_change
        self._clock = clock
        self._declared = asyncio.Event()
        self._heard_at = clock()
        self._is_leader_gone = False
        self.view: RoundView | None = None
        """What the leader last said."""
        self.superseded = ""
        """Once a newer incarnation of this worker is there: the leader's words about it."""

    @property
    def round(self) -> int:
        """The newest round that this worker took part in."""
        return self._report.round

    def declare(self, state: MemberState, round_number: int) -> None:
        """Tell the leader, as soon as may be, what this worker is at."""
        self._report = self._report.model_copy(
            update={
                "state": state,
                "round": round_number,
                "sequence": self._report.sequence + 1,
            }
        )
        self._declared.set()

    def is_over(self, round_number: int) -> bool:
        """Whether a round that this worker takes part in has ended without success."""
        view = self.view
        if self._is_leader_gone or view is None or view.round > round_number:
            return True
        return view.round == round_number and view.phase is RoundPhase.GATHERING

    async def keep(self) -> None:
        """Report to the leader and take in its views, until superseded or cancelled."""
        while not self.superseded:
            self._declared.clear()
            report = self._fill_report()
            sending = asyncio.ensure_future(self._exchange(report))
            declaring = asyncio.ensure_future(self._declared.wait())
            try:
                await asyncio.wait({sending, declaring}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                declaring.cancel()
                if not sending.done():
                    sending.cancel()
            # Where a declaration came first, the next report is sent at once in its place.
            if sending.done():
                await self._take(sending)

    async def say_farewell(self, *, seconds: float) -> None:
        """Tell the leader that this worker leaves, if it answers within `seconds`."""
        self.declare(MemberState.LEFT, self.round)
        with suppress(LeaderSilentError, SupersededError, TimeoutError):
            await asyncio.wait_for(self._exchange(self._fill_report()), seconds)

    async def _take(self, sent: asyncio.Future[RoundView]) -> None:
        """Take in what came of a report."""
        try:
            view = sent.result()
        except SupersededError as error:
            self.superseded = str(error)
            self._on_change()
            return
        except LeaderSilentError as error:
            await self._endure(str(error))
            return
        if self.view is not None and view.incarnation < self.view.incarnation:
            await self._endure("an earlier incarnation of worker 0 still answers")
            return
        self._heard_at = self._clock()
        self._is_leader_gone = False
        if view != self.view:
            self.view = view
            self._on_change()

    async def _endure(self, why: str) -> None:
        """Note that the leader did not answer, and wait a little before the next report."""
        silent = self._clock() - self._heard_at
        if silent > self._silence_seconds and not self._is_leader_gone:
            logger.warning("worker 0 has not answered for %.0f s: %s", silent, why)
            self._is_leader_gone = True
            self._on_change()
        await asyncio.sleep(RETRY_SECONDS)

    def _fill_report(self) -> MemberReport:
        if self.view is None:
            return self._report
        return self._report.model_copy(
            update={"seen_boot": self.view.boot, "seen_version": self.view.version}
        )


def _bracket(address: str) -> str:
    """Write an address as a URL wants it."""
    return f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
