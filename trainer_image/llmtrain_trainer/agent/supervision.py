"""The agent: one for each pod, it supervises the pod's ranks and says how the pod ended.

Below: `server` (the HTTP port), `membership` (rounds, agreed among the workers), `round_runner`
(one round of this pod's ranks), `rounds` (whether to try another). Above: `__main__`.

Everything runs on one event loop and imports no torch, so the agent answers at once and its
memory is small. The story is `_supervise`: wait for a round, run it, judge it, and either leave
an exit record or wait for the next.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from llmtrain_api.records import ExitRecord, Stage
from llmtrain_trainer.agent.alarm import Alarm
from llmtrain_trainer.agent.board import Board
from llmtrain_trainer.agent.diagnosis import MIB, diagnose_kill, explain_memory
from llmtrain_trainer.agent.exit_record import describe_failure, describe_success
from llmtrain_trainer.agent.membership import (
    LeaderLine,
    LeaderSeat,
    Membership,
    find_hold_seconds,
    find_lease_seconds,
)
from llmtrain_trainer.agent.metrics import BoardCollector
from llmtrain_trainer.agent.rendezvous import Leader, RoundPhase, RoundView
from llmtrain_trainer.agent.round_runner import RoundRunner
from llmtrain_trainer.agent.rounds import Outcome, OutcomeKind, PeersLostError, RestartBudget
from llmtrain_trainer.agent.server import build_application, serve
from llmtrain_trainer.agent.settings import AgentSettings
from llmtrain_trainer.failures import PreemptedError, StageError
from llmtrain_trainer.linux import count_memory_kills, read_memory_bytes
from llmtrain_trainer.stages import StageEntry
from llmtrain_trainer.store import open_store

logger = logging.getLogger(__name__)

PEER_WAIT_SECONDS = 1800.0
"""How long to wait for the other workers before giving the pod's place free."""

FAREWELL_SECONDS = 5.0
"""How long to wait for the other workers to take leave."""


async def run_agent(settings: AgentSettings, stage: StageEntry) -> ExitRecord:
    """Run one incarnation of one worker to its end, and return the pod's exit record.

    SIGTERM and SIGINT mean: save and leave.

    Raises:
        ConfigurationError: the port is taken.
    """
    board = Board(
        stage=settings.stage,
        index=settings.index,
        incarnation=settings.incarnation,
        total_steps=_count_known_steps(settings),
    )
    collector = BoardCollector(board, settings.config, stage=settings.stage, index=settings.index)
    rendezvous = settings.config.rendezvous
    async with AsyncExitStack() as stack:
        seat = line = None
        if settings.member == 0:
            seat = await stack.enter_async_context(_take_seat(settings))
        else:
            line = LeaderLine(
                rendezvous.find_leader(settings.stage),
                rendezvous.find_port(0),
                hold_seconds=find_hold_seconds(settings.num_workers),
            )
            stack.push_async_callback(line.close)
        port = settings.config.find_port(settings.stage, settings.index)
        application = build_application(board, collector, seat)
        await stack.enter_async_context(serve(application, settings.host, port))
        agent = Agent(settings, stage, board=board, seat=seat, line=line)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, agent.request_stop)
        return await agent.run()


def _count_known_steps(settings: AgentSettings) -> int:
    """Return the steps of the run, as far as the manifest says; else ranks tell them."""
    if settings.stage is not Stage.TRAIN:
        return 0
    return settings.config.training.count_steps() or 0


@asynccontextmanager
async def _take_seat(settings: AgentSettings) -> AsyncIterator[LeaderSeat]:
    """Lead the workers during the block."""
    leader = Leader(
        replicas=settings.num_workers,
        boot=uuid.uuid4().hex,
        incarnation=settings.incarnation,
        lease_seconds=find_lease_seconds(settings.num_workers),
    )
    seat = LeaderSeat(leader, hold_seconds=find_hold_seconds(settings.num_workers))
    watching = asyncio.create_task(seat.watch_leases())
    try:
        yield seat
    finally:
        watching.cancel()


class Agent:
    """What an agent knows, and its story."""

    def __init__(
        self,
        settings: AgentSettings,
        stage: StageEntry,
        *,
        board: Board,
        seat: LeaderSeat | None,
        line: LeaderLine | None,
    ) -> None:
        """Supervise ranks of `stage`; worker 0 has the leader's `seat`, the others a `line`."""
        self._settings = settings
        self._board = board
        self._seat = seat
        self._alarm = Alarm()
        self._budget = RestartBudget()
        self._memory_kills = count_memory_kills()
        leader = seat or line
        assert leader is not None
        self._membership = Membership(
            leader.exchange,
            index=settings.member,
            incarnation=settings.incarnation,
            silence_seconds=find_lease_seconds(settings.num_workers),
            on_change=self._alarm.ring,
        )
        self._rounds = RoundRunner(
            settings,
            stage,
            board=board,
            alarm=self._alarm,
            membership=self._membership,
            seat=seat,
            line=line,
        )

    def request_stop(self) -> None:
        """Save and leave: what SIGTERM means."""
        logger.info("asked to leave")
        self._alarm.request_stop(self._settings.grace_seconds)

    async def run(self) -> ExitRecord:
        """Check the store, warm up, supervise, and take leave of the other workers."""
        working = asyncio.create_task(self._work())
        keeping = asyncio.create_task(self._membership.keep())
        try:
            await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
            if keeping.done():
                keeping.result()  # it ends where this worker is superseded; else it has a defect
            return await working
        finally:
            working.cancel()
            await self._take_leave()
            keeping.cancel()
            self._rounds.close()

    async def _work(self) -> ExitRecord:
        config = self._settings.config
        try:
            # Before the seconds that importing torch takes.
            await asyncio.to_thread(lambda: open_store(config.run_uri, config.storage).check())
            self._rounds.warm()
            return await self._supervise()
        except StageError as error:
            return self._describe(error)

    async def _supervise(self) -> ExitRecord:
        """Run rounds until one says how the pod ends."""
        while True:
            view = await self._await_round()
            logger.info("round %d begins", view.round)
            outcome = await self._rounds.run(view.round)
            if outcome.kind is OutcomeKind.FINISHED:
                assert outcome.result is not None
                return describe_success(outcome.result, checkpoint_step=self._board.checkpoint_step)
            logger.warning("round %d %s: %s", view.round, outcome.kind, outcome.message)
            if (error := self._find_end(outcome)) is not None:
                return self._describe(error, rank=outcome.rank)

    def _find_end(self, outcome: Outcome) -> StageError | None:
        """Return why the pod ends after a round without success; None: it tries another."""
        if outcome.error is not None and outcome.kind is OutcomeKind.FAILED:
            return outcome.error
        if self._alarm.stop_at is not None:
            return self._explain_stop(outcome)
        if outcome.kind is OutcomeKind.LOST and count_memory_kills() > self._memory_kills:
            return explain_memory(f"{outcome.message}: {_describe_memory()}")
        if outcome.exit_code is not None and (full := diagnose_kill(outcome.exit_code)):
            return full
        return self._budget.count(outcome, self._board.checkpoint_step)

    async def _await_round(self) -> RoundView:
        """Wait until every worker is there and a round begins.

        Raises:
            PreemptedError: asked to leave meanwhile.
            PeersLostError: the others did not come, or this worker has been replaced.
        """
        last_round = self._membership.round
        deadline = time.monotonic() + PEER_WAIT_SECONDS

        def find_round() -> RoundView | None:
            view = self._membership.view
            if view is None or view.round <= last_round or view.phase is RoundPhase.GATHERING:
                return None
            return view

        await self._alarm.until(
            lambda: find_round() is not None or self._must_leave(), deadline=deadline
        )
        if self._membership.superseded:
            raise PeersLostError(self._membership.superseded, reason="Superseded")
        if self._alarm.stop_at is not None:
            raise PreemptedError("asked to leave while no rank was at work", reason="Preempted")
        view = find_round()
        if view is None:
            raise self._explain_absence()
        return view

    async def _take_leave(self) -> None:
        """Tell the others; the leader stays until they have heard that all is done."""
        if self._seat is not None and self._seat.leader.view.phase is RoundPhase.COMPLETE:
            leader = self._seat.leader
            others = range(1, self._settings.num_workers)
            await self._seat.until(lambda: all(map(leader.has_left, others)), FAREWELL_SECONDS)
        await self._membership.say_farewell(seconds=FAREWELL_SECONDS)

    def _must_leave(self) -> bool:
        return self._alarm.stop_at is not None or bool(self._membership.superseded)

    def _explain_stop(self, outcome: Outcome) -> StageError:
        """Return the end of a pod that was asked to leave."""
        if outcome.kind is OutcomeKind.DRAINED:
            return PreemptedError(outcome.message, reason="Preempted")
        step = self._board.checkpoint_step
        rest = "the stage begins anew" if step is None else f"training goes on from step {step}"
        return PreemptedError(
            f"asked to leave; nothing was saved ({outcome.message}): {rest}",
            reason="PreemptedUnsaved",
        )

    def _explain_absence(self) -> PeersLostError:
        view = self._membership.view
        if view is None:
            host = self._settings.config.rendezvous.find_leader(self._settings.stage)
            who = f"worker 0 does not answer at {host}"
        else:
            who = f"workers {', '.join(map(str, view.missing))} did not come"
        return PeersLostError(
            f"{who}, for {PEER_WAIT_SECONDS:.0f} s",
            reason="PeersMissing",
            next_step="see why their pods are not running",
        )

    def _describe(self, error: StageError, *, rank: int | None = None) -> ExitRecord:
        return describe_failure(
            error,
            rank=rank,
            step=self._board.step or None,
            checkpoint_step=self._board.checkpoint_step,
        )


def _describe_memory() -> str:
    """Say that the worker's memory ran out, with its limit and its peak where they are known."""
    known = [
        f"{word} {value // MIB} MiB"
        for word, name in (("limit", "max"), ("peak", "peak"))
        if (value := read_memory_bytes(name)) is not None
    ]
    figures = f" ({', '.join(known)})" if known else ""
    return f"the worker's memory ran out{figures}"
