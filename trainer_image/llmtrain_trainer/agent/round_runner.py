"""One round of a pod's ranks: started, watched, ended. None of them is left afterwards.

Below: `launcher` (ranks), `membership` (the other workers), `watchdog`, `rounds` (what to make of
what happened). Above: `supervision` decides whether there is another round.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

from llmtrain_trainer.agent.alarm import Alarm
from llmtrain_trainer.agent.board import Board
from llmtrain_trainer.agent.launcher import ForkError, Launcher, RunningRanks
from llmtrain_trainer.agent.membership import LeaderLine, LeaderSeat, Membership
from llmtrain_trainer.agent.rank_process import Order
from llmtrain_trainer.agent.rendezvous import MemberState, RoundPhase
from llmtrain_trainer.agent.rounds import Outcome, OutcomeKind, judge_round
from llmtrain_trainer.agent.settings import AgentSettings
from llmtrain_trainer.agent.watchdog import SLACK_SECONDS, Watchdog
from llmtrain_trainer.checkpoint.host_memory import HostMemory
from llmtrain_trainer.failures import StageError
from llmtrain_trainer.progress import RankUpdate
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.stages import StageEntry, find_own_address
from llmtrain_trainer.store import open_store

logger = logging.getLogger(__name__)

SETTLE_SECONDS = 1.0
"""How long the cause of a failure may take to show after its first consequence."""

WATCH_SECONDS = 0.5
"""How often it is asked whether ranks stand still."""

STACKS = "stacks/round-{round:05d}-worker-{worker}.txt"
"""Where, in the run's store, it is kept where ranks were that stood still."""

UPLOAD_SECONDS = 10.0
"""How long that may take: the store may be what they were stuck at."""


class RoundRunner:
    """Runs rounds, one after the other."""

    def __init__(
        self,
        settings: AgentSettings,
        stage: StageEntry,
        *,
        board: Board,
        alarm: Alarm,
        membership: Membership,
        seat: LeaderSeat | None,
        line: LeaderLine | None,
    ) -> None:
        """Run ranks of `stage`; worker 0 has the leader's `seat`, the others a `line`."""
        self._settings = settings
        self._stage = stage
        self._board = board
        self._alarm = alarm
        self._membership = membership
        self._seat = seat
        self._line = line
        self._watchdog = Watchdog()
        self._memory = HostMemory()
        self._launcher = Launcher(
            stage,
            settings.config,
            store_address=settings.host,
            on_update=self._record,
            on_change=alarm.ring,
        )

    def warm(self) -> None:
        """Begin to load what ranks need, without waiting for it."""
        self._launcher.warm()

    def close(self) -> None:
        """Remove the files that rounds have left on this host, in memory too."""
        self._launcher.close()
        self._memory.close()

    async def run(self, number: int) -> Outcome:
        """Run this pod's ranks through one round; none is left when it returns."""
        self._membership.declare(MemberState.RUNNING, number)
        if not await self._await_store(number):
            outcome = Outcome(kind=OutcomeKind.ABANDONED, message="the round ended elsewhere")
            self._lose(outcome, number)
            return outcome
        self._board.begin_round()
        self._watchdog.begin_round()
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
        self._board.lose_round(outcome.kind, outcome.message)
        if self._membership.view is not None:
            self._board.note_checkpoint(self._membership.view.checkpoint_step)
        if outcome.kind is not OutcomeKind.FAILED and not self._must_leave():
            self._membership.declare(MemberState.IDLE, number)

    async def _watch_round(self, ranks: RunningRanks, number: int) -> Outcome:
        """Watch until it is clear what became of a round for this pod."""
        settle_at: float | None = None
        stopping = False
        while True:
            if self._alarm.stop_at is not None and not stopping:
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
                stall=self._watchdog.find_stall() if self._stage.takes_steps else None,
            )
            if outcome is not None:
                await self._keep_stacks(ranks, number, outcome)
                return outcome
            if self._alarm.stop_at is not None and time.monotonic() >= self._alarm.stop_at:
                return Outcome(kind=OutcomeKind.ABANDONED, message="the time to save is over")
            await self._alarm.sleep(
                settle_at, self._alarm.stop_at, time.monotonic() + WATCH_SECONDS
            )

    async def _keep_stacks(self, ranks: RunningRanks, number: int, outcome: Outcome) -> None:
        """Keep where the ranks are, if they stood still, before they are killed.

        Where another worker was first to notice, this pod's ranks may be those that are stuck.
        """
        is_silent = bool(self._watchdog.list_silent(SLACK_SECONDS)) and self._stage.takes_steps
        if outcome.kind is not OutcomeKind.HUNG and not (
            outcome.kind is OutcomeKind.ABANDONED and is_silent
        ):
            return
        stacks = await ranks.collect_stacks()
        logger.warning("where the ranks of round %d were:\n%s", number, stacks)
        key = STACKS.format(round=number, worker=self._settings.index)
        config = self._settings.config

        def upload() -> None:
            open_store(config.run_uri, config.storage).write_bytes(key, stacks.encode())

        with suppress(StageError, TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(upload), UPLOAD_SECONDS)

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

        await self._alarm.until(is_decided, deadline=self._alarm.stop_at)
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

        await self._alarm.until(is_decided)
        return not self._membership.is_over(number) and not self._must_leave()

    def _list_groups(self, number: int) -> list[RankGroup]:
        settings, view = self._settings, self._membership.view
        store_host = find_own_address(settings.host) if self._line is None else self._line.address
        store_port = view.store_port if view is not None else None
        return [
            RankGroup(
                rank=settings.member * settings.num_ranks + local_rank,
                world_size=settings.num_workers * settings.num_ranks,
                local_rank=local_rank,
                local_world_size=settings.num_ranks,
                round=number,
                store_host=store_host,
                store_port=store_port or 0,
                worker=settings.index,
                staging=tuple(map(str, self._memory.folders)),
            )
            for local_rank in range(settings.num_ranks)
        ]

    def _record(self, update: RankUpdate) -> None:
        self._board.record(update)
        self._watchdog.hear(update)
        if self._seat is not None:
            self._seat.leader.note_checkpoint(self._board.checkpoint_step)

    def _must_leave(self) -> bool:
        return self._alarm.stop_at is not None or bool(self._membership.superseded)
