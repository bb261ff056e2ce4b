"""What became of a round, and whether the pod may try another. Pure decisions.

Below: how ranks ended, in the order in which they did. Above: `supervision` acts on it.

When one rank fails, the others fail with it: their talk breaks off. What counts is the cause,
so an ending that may be a mere consequence waits until a cause has had time to show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from llmtrain_api.records import ExitCode, StageResult
from llmtrain_trainer.agent.rank_process import (
    Ending,
    RankFailed,
    RankFinished,
    RankKilled,
    RankSevered,
)
from llmtrain_trainer.agent.watchdog import Stall
from llmtrain_trainer.failures import PreemptedError, RolledBackError, StageError

MAX_LOST_ROUNDS = 3
"""Rounds in a row, without a new checkpoint, that may end because ranks of this pod died."""

MAX_HUNG_ROUNDS = 3
"""The same for rounds in which ranks of this pod stood still."""

MAX_SEVERED_ROUNDS = 10
"""The same for rounds that ended because the talk with other workers broke off."""


class OutcomeKind(StrEnum):
    """How a round ended for this pod."""

    FINISHED = "finished"
    """Every rank is done."""
    DRAINED = "drained"
    """The ranks saved and left, because some pod was asked to leave."""
    FAILED = "failed"
    """A rank met an error of its own; another round would meet it too."""
    LOST = "lost"
    """A rank of this pod died without a word."""
    HUNG = "hung"
    """Ranks of this pod stood still."""
    ROLLED_BACK = "rolled-back"
    """The loss ran away: the next round goes on from before that."""
    SEVERED = "severed"
    """The talk with other workers broke off, and nobody says why."""
    ABANDONED = "abandoned"
    """The round ended elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a round ended for this pod, and by which rank."""

    kind: OutcomeKind
    message: str = ""
    rank: int | None = None
    exit_code: int | None = None
    """Of a rank that died without a word; negative: the number of the signal."""
    error: StageError | None = None
    result: StageResult | None = None


def judge_round(
    endings: Mapping[int, Ending],
    num_ranks: int,
    *,
    is_over: bool,
    is_settled: bool,
    stall: Stall | None = None,
) -> Outcome | None:
    """Return what became of a round; None while that is open.

    Args:
        endings: how ranks of this pod ended, by global rank, first ended first.
        num_ranks: ranks of this pod.
        is_over: whether the round has ended elsewhere.
        is_settled: whether causes have had time to show since the first ending.
        stall: which ranks of this pod stand still, if any do.
    """
    for rank, ending in endings.items():
        if isinstance(ending, RankFailed) and _is_cause(ending.error):
            return Outcome(
                kind=OutcomeKind.FAILED,
                message=ending.error.message,
                rank=rank,
                error=ending.error,
            )
    for rank, ending in endings.items():
        if isinstance(ending, RankFailed) and isinstance(ending.error, RolledBackError):
            message = ending.error.message
            return Outcome(kind=OutcomeKind.ROLLED_BACK, message=message, rank=rank)
    for rank, ending in endings.items():
        if isinstance(ending, RankKilled):
            message = f"rank {rank} {ending.describe()}"
            return Outcome(
                kind=OutcomeKind.LOST, message=message, rank=rank, exit_code=ending.exit_code
            )
    if is_over:
        return Outcome(kind=OutcomeKind.ABANDONED, message="the round ended elsewhere")
    if is_settled:
        for rank, ending in endings.items():
            if isinstance(ending, RankSevered):
                message = f"rank {rank} lost its peers: {ending.message}"
                return Outcome(kind=OutcomeKind.SEVERED, message=message, rank=rank)
            if isinstance(ending, RankFailed) and not isinstance(ending.error, PreemptedError):
                error = ending.error
                return Outcome(
                    kind=OutcomeKind.FAILED, message=error.message, rank=rank, error=error
                )
    if stall is not None and not endings:
        return Outcome(kind=OutcomeKind.HUNG, message=stall.describe(), rank=stall.ranks[0])
    if len(endings) < num_ranks:
        return None
    return _judge_ended(endings)


def _judge_ended(endings: Mapping[int, Ending]) -> Outcome | None:
    finished = {
        rank: ending.result for rank, ending in endings.items() if isinstance(ending, RankFinished)
    }
    if len(finished) == len(endings):
        first = min(finished)
        return Outcome(kind=OutcomeKind.FINISHED, rank=first, result=finished[first])
    for rank, ending in endings.items():
        if isinstance(ending, RankSevered):
            return None
        if isinstance(ending, RankFailed) and ending.error.code is not ExitCode.PREEMPTED:
            return None
        if isinstance(ending, RankFailed):
            drained = Outcome(kind=OutcomeKind.DRAINED, message=ending.error.message, rank=rank)
    return drained


def _is_cause(error: StageError) -> bool:
    """Whether an error speaks for itself; an unforeseen one may be a peer's death in disguise."""
    return error.code not in (ExitCode.BUG, ExitCode.PREEMPTED) and not isinstance(
        error, RolledBackError
    )


class RestartBudget:
    """How many more rounds this pod may lose before another node should try."""

    def __init__(self) -> None:
        """Begin with nothing lost."""
        self._checkpoint_step: int | None = None
        self._lost: dict[OutcomeKind, int] = {}

    def count(self, outcome: Outcome, checkpoint_step: int | None) -> StageError | None:
        """Count a round that ended without success; return why to give up, if it is time.

        A newer checkpoint than at the last loss forgives what was before.
        """
        if checkpoint_step != self._checkpoint_step:
            self._checkpoint_step = checkpoint_step
            self._lost.clear()
        lost = self._lost[outcome.kind] = self._lost.get(outcome.kind, 0) + 1
        since = (
            "the start" if checkpoint_step is None else f"the checkpoint of step {checkpoint_step}"
        )
        if outcome.kind is OutcomeKind.LOST and lost >= MAX_LOST_ROUNDS:
            return RanksLostError(
                f"{outcome.message}, the {lost}. such round in a row since {since}",
                reason="RanksKeepDying",
                next_step="if it recurs on other nodes, raise the memory of workers.resources",
            )
        if outcome.kind is OutcomeKind.HUNG and lost >= MAX_HUNG_ROUNDS:
            return RanksHungError(
                f"{outcome.message}, the {lost}. such round in a row since {since}",
                reason="RanksKeepHanging",
                next_step="read their stacks under stacks/ of the run in the store",
            )
        if outcome.kind is OutcomeKind.SEVERED and lost >= MAX_SEVERED_ROUNDS:
            return PeersLostError(
                f"{outcome.message}, the {lost}. such round in a row since {since}",
                reason="PeersKeepLeaving",
                next_step="check the network between the workers' nodes",
            )
        return None


class RanksLostError(StageError):
    """Ranks of this pod kept dying by signals."""

    code = ExitCode.RANK_LOST


class RanksHungError(StageError):
    """Ranks of this pod stood still, again and again."""

    code = ExitCode.HUNG


class PeersLostError(StageError):
    """Another worker went away and did not come back in time."""

    code = ExitCode.PEER_LOST
