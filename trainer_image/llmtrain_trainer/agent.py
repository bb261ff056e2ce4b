"""The agent: one for each pod, it supervises the pod's ranks and says how the pod ended.

Below: `server` (the HTTP port), `membership` (rounds, agreed among the workers), `launcher`
(ranks, forked warm), `rounds` (what became of a round). Above: `__main__`.

Everything runs on one event loop and imports no torch, so the agent answers at once and its
memory is small. The story is `_supervise`: wait for a round, run it, judge it, and either leave
an exit record or wait for the next. Whatever happens (a rank's death, the leader's word, a
signal) sets one event, and whoever waits looks at the facts anew.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from llmtrain_api.records import ExitRecord, Stage
from llmtrain_api.run import RunConfig
from llmtrain_trainer.board import Board
from llmtrain_trainer.exit_record import describe_failure, describe_success
from llmtrain_trainer.failures import OutOfMemoryError, PreemptedError, StageError
from llmtrain_trainer.launcher import ForkError, Launcher, RunningRanks
from llmtrain_trainer.linux import count_memory_kills
from llmtrain_trainer.membership import (
    LeaderLine,
    LeaderSeat,
    Membership,
    find_hold_seconds,
    find_lease_seconds,
)
from llmtrain_trainer.metrics import BoardCollector
from llmtrain_trainer.progress import RankGroup, RankUpdate
from llmtrain_trainer.rank_process import Order
from llmtrain_trainer.rendezvous import Leader, MemberState, RoundPhase, RoundView
from llmtrain_trainer.rounds import (
    Outcome,
    OutcomeKind,
    PeersLostError,
    RestartBudget,
    judge_round,
)
from llmtrain_trainer.server import build_application, serve
from llmtrain_trainer.stages import StageEntry, find_own_address
from llmtrain_trainer.store import open_store

logger = logging.getLogger(__name__)

SETTLE_SECONDS = 1.0
"""How long the cause of a failure may take to show after its first consequence."""

PEER_WAIT_SECONDS = 1800.0
"""How long to wait for the other workers before giving the pod's place free."""

FAREWELL_SECONDS = 5.0
"""How long to wait for the other workers to take leave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """What an agent is told: the run, and which process of it this is."""

    config: RunConfig
    stage: Stage
    index: int
    incarnation: int
    host: str
    """Address to listen at."""
    grace_seconds: float
    """How long ranks may take to save and leave after SIGTERM."""

    @property
    def num_workers(self) -> int:
        """Workers of the stage: only training has more than one."""
        return self.config.replicas if self.stage is Stage.TRAIN else 1

    @property
    def num_ranks(self) -> int:
        """Ranks of each worker."""
        return self.config.processes_per_worker if self.stage is Stage.TRAIN else 1


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
        total_steps=settings.config.training.steps if settings.stage is Stage.TRAIN else 0,
    )
    collector = BoardCollector(board, settings.config, stage=settings.stage, index=settings.index)
    rendezvous = settings.config.rendezvous
    async with AsyncExitStack() as stack:
        seat = line = None
        if settings.index == 0:
            seat = await stack.enter_async_context(_take_seat(settings))
        else:
            line = LeaderLine(
                rendezvous.leader_host,
                rendezvous.find_port(0),
                hold_seconds=find_hold_seconds(settings.num_workers),
            )
            stack.push_async_callback(line.close)
        port = rendezvous.find_port(settings.index)
        application = build_application(board, collector, seat)
        await stack.enter_async_context(serve(application, settings.host, port))
        agent = Agent(settings, stage, board=board, seat=seat, line=line)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, agent.request_stop)
        return await agent.run()


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
        self._stage = stage
        self._board = board
        self._seat = seat
        self._line = line
        self._wake = asyncio.Event()
        self._stop_at: float | None = None
        self._budget = RestartBudget()
        self._memory_kills = count_memory_kills()
        leader = seat or line
        assert leader is not None
        self._membership = Membership(
            leader.exchange,
            index=settings.index,
            incarnation=settings.incarnation,
            silence_seconds=find_lease_seconds(settings.num_workers),
            on_change=self._wake.set,
        )
        self._launcher = Launcher(
            stage,
            settings.config,
            store_address=settings.host,
            on_update=self._record,
            on_change=self._wake.set,
        )

    def request_stop(self) -> None:
        """Save and leave: what SIGTERM means."""
        if self._stop_at is None:
            logger.info("asked to leave")
            self._stop_at = time.monotonic() + self._settings.grace_seconds
            self._wake.set()

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

    async def _work(self) -> ExitRecord:
        config = self._settings.config
        try:
            # Before the seconds that importing torch takes.
            await asyncio.to_thread(lambda: open_store(config.run_uri, config.storage).check())
            self._launcher.warm()
            return await self._supervise()
        except StageError as error:
            return self._describe(error)

    async def _supervise(self) -> ExitRecord:
        """Run rounds until one says how the pod ends."""
        while True:
            view = await self._await_round()
            logger.info("round %d begins", view.round)
            outcome = await self._run_round(view.round)
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
        if self._stop_at is not None:
            return self._explain_stop(outcome)
        if outcome.kind is OutcomeKind.LOST and count_memory_kills() > self._memory_kills:
            return OutOfMemoryError(
                f"{outcome.message}: the worker's memory ran out",
                reason="OutOfMemory",
                next_step="raise the memory of workers.resources, or lower training.microBatchSize",
            )
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

        await self._until(lambda: find_round() is not None or self._must_leave(), deadline=deadline)
        if self._membership.superseded:
            raise PeersLostError(self._membership.superseded, reason="Superseded")
        if self._stop_at is not None:
            raise PreemptedError("asked to leave while no rank was at work", reason="Preempted")
        view = find_round()
        if view is None:
            raise self._explain_absence()
        return view

    async def _run_round(self, number: int) -> Outcome:
        """Run this pod's ranks through one round; none is left when it returns."""
        self._membership.declare(MemberState.RUNNING, number)
        if not await self._await_store(number):
            outcome = Outcome(kind=OutcomeKind.ABANDONED, message="the round ended elsewhere")
            self._lose(outcome, number)
            return outcome
        self._board.begin_round()
        try:
            ranks = await self._launcher.start(self._list_groups(number))
        except ForkError as error:
            outcome = Outcome(kind=OutcomeKind.LOST, message=str(error))
            self._lose(outcome, number)
            return outcome
        try:
            if self._seat is not None and ranks.store_port is not None:
                with self._seat.changing() as leader:
                    leader.publish_store(number, ranks.store_port)
            outcome = await self._watch_round(ranks, number)
            if outcome.kind in (OutcomeKind.FINISHED, OutcomeKind.DRAINED):
                outcome = await self._await_others(outcome, number)
            # Before this pod's other ranks are killed, so that the other workers hear at once.
            self._lose(outcome, number)
            return outcome
        finally:
            await ranks.kill()

    def _lose(self, outcome: Outcome, number: int) -> None:
        """Note a round that ended without success; stand by for the next, if there is to be one."""
        if outcome.kind is OutcomeKind.FINISHED:
            return
        self._board.lose_round(outcome.kind)
        if self._membership.view is not None:
            self._board.note_checkpoint(self._membership.view.checkpoint_step)
        if outcome.kind is not OutcomeKind.FAILED and not self._must_leave():
            self._membership.declare(MemberState.IDLE, number)

    async def _watch_round(self, ranks: RunningRanks, number: int) -> Outcome:
        """Watch until it is clear what became of a round for this pod."""
        settle_at: float | None = None
        stopping = False
        while True:
            if self._stop_at is not None and not stopping:
                stopping = True
                if not self._stage.saves_when_stopped or not self._board.has_begun:
                    return Outcome(kind=OutcomeKind.ABANDONED, message="there was nothing to save")
                ranks.send(Order.STOP)
            if ranks.endings and settle_at is None:
                settle_at = time.monotonic() + SETTLE_SECONDS
            outcome = judge_round(
                ranks.endings,
                len(ranks),
                is_over=self._membership.is_over(number) or bool(self._membership.superseded),
                is_settled=settle_at is not None and time.monotonic() >= settle_at,
            )
            if outcome is not None:
                return outcome
            if self._stop_at is not None and time.monotonic() >= self._stop_at:
                return Outcome(kind=OutcomeKind.ABANDONED, message="the time to save is over")
            await self._sleep(settle_at, self._stop_at)

    async def _await_others(self, outcome: Outcome, number: int) -> Outcome:
        """Wait until the other workers are done with the round, too.

        Rank 0 serves them its key-value store till then. A round that is lost after this pod had
        finished is repeated: its ranks resume from the last checkpoint and are soon done.
        """
        finished = outcome.kind is OutcomeKind.FINISHED
        self._membership.declare(MemberState.FINISHED if finished else MemberState.DRAINED, number)

        def is_decided() -> bool:
            view = self._membership.view
            return (
                self._membership.is_over(number)
                or (view is not None and view.phase is RoundPhase.COMPLETE)
                or bool(self._membership.superseded)
            )

        await self._until(is_decided, deadline=self._stop_at)
        if finished and self._membership.view is not None and self._membership.is_over(number):
            return Outcome(kind=OutcomeKind.ABANDONED, message="another worker did not finish")
        return outcome

    async def _await_store(self, number: int) -> bool:
        """Wait for word of the round's key-value store; False where the round ended before.

        Worker 0 needs not wait: its own rank 0 serves it.
        """
        if self._seat is not None:
            return True

        def is_decided() -> bool:
            view = self._membership.view
            served = view is not None and view.store_port is not None
            return served or self._membership.is_over(number) or self._must_leave()

        await self._until(is_decided)
        return not self._membership.is_over(number) and not self._must_leave()

    def _list_groups(self, number: int) -> list[RankGroup]:
        settings, view = self._settings, self._membership.view
        store_host = find_own_address(settings.host) if self._line is None else self._line.address
        store_port = view.store_port if view is not None else None
        return [
            RankGroup(
                rank=settings.index * settings.num_ranks + local_rank,
                world_size=settings.num_workers * settings.num_ranks,
                local_rank=local_rank,
                local_world_size=settings.num_ranks,
                round=number,
                store_host=store_host,
                store_port=store_port or 0,
            )
            for local_rank in range(settings.num_ranks)
        ]

    async def _take_leave(self) -> None:
        """Tell the others; the leader stays until they have heard that all is done."""
        if self._seat is not None and self._seat.leader.view.phase is RoundPhase.COMPLETE:
            leader = self._seat.leader
            others = range(1, self._settings.num_workers)
            await self._seat.until(lambda: all(map(leader.has_left, others)), FAREWELL_SECONDS)
        await self._membership.say_farewell(seconds=FAREWELL_SECONDS)

    def _record(self, update: RankUpdate) -> None:
        self._board.record(update)
        if self._seat is not None:
            self._seat.leader.note_checkpoint(self._board.checkpoint_step)

    def _must_leave(self) -> bool:
        return self._stop_at is not None or bool(self._membership.superseded)

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
            who = f"worker 0 does not answer at {self._settings.config.rendezvous.leader_host}"
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

    async def _until(self, condition: Callable[[], bool], *, deadline: float | None = None) -> None:
        """Wait until `condition` holds or `deadline` (monotonic seconds) is past."""
        while not condition() and (deadline is None or time.monotonic() < deadline):
            await self._sleep(deadline)

    async def _sleep(self, *deadlines: float | None) -> None:
        """Sleep until something happens, or the first deadline that is still ahead."""
        now = time.monotonic()
        ahead = [
            deadline - now for deadline in deadlines if deadline is not None and deadline > now
        ]
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), min(ahead) if ahead else None)
        self._wake.clear()
