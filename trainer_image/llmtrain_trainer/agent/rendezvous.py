"""When a round begins and when it is over: what the agent of worker 0 decides for all workers.

Below: the contract's base model. Above: `membership` carries the reports to the leader and its
views back. No clock and no network here: the same reports at the same times give the same views.

    GATHERING ──every worker is idle──► RUNNING ──every worker finished──► COMPLETE
        ▲                                  │
        └── one lost it, left, was ────────┘
            replaced or fell silent

A round is one common start of all ranks. Its number grows over the whole life of the run, over
replacements of worker 0 too, so that nothing of a dead round can be taken for the present one.
Torch's elastic agent serves the same purpose with one store for all attempts, in which ranks
meet the addresses of the dead; here each round has a store of its own, which rank 0 serves.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pydantic import Field

from llmtrain_api.base import Model
from llmtrain_trainer.rank_group import ROUNDS_PER_INCARNATION


class MemberState(StrEnum):
    """What a worker is at. Each but `LEFT` speaks of the round in the same report."""

    IDLE = "idle"
    """Without ranks: the round, if it ran it, is lost."""
    RUNNING = "running"
    """Its ranks are at work, or about to be."""
    FINISHED = "finished"
    """All its ranks are done."""
    DRAINED = "drained"
    """All its ranks have saved and left, as every rank does when one pod is asked to leave."""
    LEFT = "left"
    """It has gone, and another incarnation may come."""


class RoundPhase(StrEnum):
    """What the workers are at together."""

    GATHERING = "gathering"
    RUNNING = "running"
    COMPLETE = "complete"


class MemberReport(Model):
    """What a worker tells the leader."""

    index: int = Field(ge=0)
    """Index of the worker."""

    incarnation: int = Field(ge=0)
    """Which life of that worker it is."""

    state: MemberState = MemberState.IDLE

    round: int = Field(default=0, ge=0)
    """The newest round that it took part in; 0: none yet."""

    sequence: int = Field(default=0, ge=0)
    """Grows with every change of state: a report that was overtaken on its way counts no more."""

    seen_boot: str = ""
    """`RoundView.boot` of the newest view that it has."""

    seen_version: int = -1
    """`RoundView.version` of that view; the leader answers as soon as it has a newer one."""


class RoundView(Model):
    """What the leader tells every worker."""

    boot: str
    """Names the leader's process: versions of two leaders do not compare."""

    incarnation: int = Field(ge=0)
    """Incarnation of worker 0, which leads."""

    version: int = Field(ge=0)
    """Grows with every change that workers wait for."""

    round: int = Field(ge=0)
    """The present round, or the last one while workers gather."""

    phase: RoundPhase

    store_port: int | None = None
    """Where rank 0 serves the round's key-value store, at the leader's address; absent: not yet."""

    missing: tuple[int, ...] = ()
    """Workers that are not ready for a round (at most `MAX_MISSING_NAMED` of them)."""

    checkpoint_step: int | None = None
    """Newest committed checkpoint that the leader knows of."""


MAX_MISSING_NAMED = 16


class SupersededError(Exception):
    """A newer incarnation of the worker that reports is there; the message says so."""


@dataclass(slots=True)
class _Member:
    """The newest report of a worker, and when it came."""

    report: MemberReport
    seen_at: float


class Leader:
    """The state of the rounds of one run, as long as one incarnation of worker 0 lives."""

    def __init__(self, *, replicas: int, boot: str, incarnation: int, lease_seconds: float) -> None:
        """Lead `replicas` workers. One that is silent for `lease_seconds` counts as gone."""
        self._replicas = replicas
        self._boot = boot
        self._incarnation = incarnation
        self._lease_seconds = lease_seconds
        self._members: dict[int, _Member] = {}
        self._round = incarnation * ROUNDS_PER_INCARNATION
        self._phase = RoundPhase.GATHERING
        self._store_port: int | None = None
        self._version = 0
        self._checkpoint_step: int | None = None

    @property
    def version(self) -> int:
        """Version of the present view."""
        return self._version

    @property
    def view(self) -> RoundView:
        """What workers are told now."""
        return RoundView(
            boot=self._boot,
            incarnation=self._incarnation,
            version=self._version,
            round=self._round,
            phase=self._phase,
            store_port=self._store_port,
            missing=tuple(self._list_missing()[:MAX_MISSING_NAMED]),
            checkpoint_step=self._checkpoint_step,
        )

    def hear(self, report: MemberReport, now: float) -> None:
        """Take in what a worker says at `now` (monotonic seconds).

        Raises:
            SupersededError: a newer incarnation of that worker has been heard.
            ValueError: there is no worker of that index.
        """
        if report.index >= self._replicas:
            raise ValueError(f"index {report.index}: the run has {self._replicas} workers")
        known = self._members.get(report.index)
        if known is not None and report.incarnation < known.report.incarnation:
            raise SupersededError(
                f"worker {report.index} has been replaced: incarnation "
                f"{known.report.incarnation} of it is there, and this is {report.incarnation}"
            )
        is_new = known is None or report.incarnation > known.report.incarnation
        if known is not None and not is_new and report.sequence < known.report.sequence:
            known.seen_at = now
            return
        self._members[report.index] = _Member(report=report, seen_at=now)
        if report.state is MemberState.LEFT:
            self._version += 1  # worker 0 may be waiting for it
        if self._phase is RoundPhase.RUNNING and self._is_lost_by(report, is_new=is_new):
            self._end_round()
        self._advance()

    def expire(self, now: float) -> None:
        """Give up workers that have been silent for longer than the lease."""
        silent = [
            index
            for index, member in self._members.items()
            if now - member.seen_at > self._lease_seconds
            and member.report.state is not MemberState.LEFT
        ]
        for index in silent:
            del self._members[index]
        if silent and self._phase is RoundPhase.RUNNING:
            self._end_round()

    def publish_store(self, round_number: int, port: int) -> None:
        """Tell the workers where rank 0 serves the key-value store of a round."""
        if self._phase is not RoundPhase.RUNNING or round_number != self._round:
            return
        if self._store_port != port:
            self._store_port = port
            self._version += 1

    def note_checkpoint(self, step: int | None) -> None:
        """Remember the newest checkpoint; workers hear of it with the next view, unhurried."""
        self._checkpoint_step = step

    def has_left(self, index: int) -> bool:
        """Whether a worker has taken leave, or is given up."""
        member = self._members.get(index)
        return member is None or member.report.state is MemberState.LEFT

    def _is_lost_by(self, report: MemberReport, *, is_new: bool) -> bool:
        """Whether a report says that the present round cannot be finished."""
        if is_new or report.state is MemberState.LEFT:
            return True
        return report.state is MemberState.IDLE and report.round == self._round

    def _advance(self) -> None:
        """Begin or end a round where the reports of all workers allow it."""
        if self._phase is RoundPhase.GATHERING and not self._list_missing():
            highest = max(member.report.round for member in self._members.values())
            self._round = max(self._round, highest) + 1
            self._phase = RoundPhase.RUNNING
            self._store_port = None
            self._version += 1
        elif self._phase is RoundPhase.RUNNING:
            states = [
                member.report.state
                for member in self._members.values()
                if member.report.round == self._round
            ]
            done = [s for s in states if s in (MemberState.FINISHED, MemberState.DRAINED)]
            if len(done) < self._replicas:
                return
            if MemberState.DRAINED in done:
                self._end_round()
                return
            self._phase = RoundPhase.COMPLETE
            self._version += 1

    def _end_round(self) -> None:
        self._phase = RoundPhase.GATHERING
        self._store_port = None
        self._version += 1

    def _list_missing(self) -> list[int]:
        """Return the workers that are not ready for a round."""
        return [
            index
            for index in range(self._replicas)
            if (member := self._members.get(index)) is None
            or member.report.state is not MemberState.IDLE
        ]
