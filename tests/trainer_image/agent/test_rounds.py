"""What becomes of a round, by how ranks ended."""

from __future__ import annotations

import signal

import pytest

from llmtrain_api.records import RankPhase, StageResult
from llmtrain_trainer.agent.rank_process import (
    Ending,
    RankFailed,
    RankFinished,
    RankKilled,
    RankSevered,
)
from llmtrain_trainer.agent.rounds import (
    MAX_HUNG_ROUNDS,
    MAX_LOST_ROUNDS,
    MAX_SEVERED_ROUNDS,
    Outcome,
    OutcomeKind,
    PeersLostError,
    RanksHungError,
    RanksLostError,
    RestartBudget,
    judge_round,
)
from llmtrain_trainer.agent.watchdog import Stall
from llmtrain_trainer.failures import DataError, PreemptedError, RolledBackError, StageError

RESULT = StageResult(step=10)
DONE = RankFinished(result=RESULT)
KILLED = RankKilled(exit_code=-signal.SIGKILL)
SEVERED = RankSevered(message="Connection closed by peer")
PREEMPTED = RankFailed(error=PreemptedError("saved", reason="Preempted"))
ROLLED_BACK = RankFailed(error=RolledBackError("the loss is nan", reason="RolledBack"))
BAD_DATA = RankFailed(error=DataError("line 3", reason="BadLine"))
BUG = RankFailed(error=StageError("KeyError: 'x'", reason="UnexpectedError"))


@pytest.mark.parametrize(
    ("endings", "over", "settled", "kind", "rank"),
    [
        pytest.param({}, False, False, None, None, id="all at work"),
        pytest.param({4: DONE}, False, True, None, None, id="one done"),
        pytest.param({5: DONE, 4: DONE}, False, False, OutcomeKind.FINISHED, 4, id="done"),
        pytest.param({4: KILLED}, False, False, OutcomeKind.LOST, 4, id="killed"),
        pytest.param({5: SEVERED, 4: KILLED}, False, False, OutcomeKind.LOST, 4, id="its peer"),
        pytest.param({4: SEVERED}, False, False, None, None, id="severed, cause unknown"),
        pytest.param({4: SEVERED}, False, True, OutcomeKind.SEVERED, 4, id="no cause showed"),
        pytest.param({4: SEVERED}, True, False, OutcomeKind.ABANDONED, None, id="elsewhere"),
        pytest.param({}, True, False, OutcomeKind.ABANDONED, None, id="over while at work"),
        pytest.param({4: SEVERED, 5: BAD_DATA}, True, True, OutcomeKind.FAILED, 5, id="cause"),
        pytest.param({4: KILLED, 5: BAD_DATA}, False, False, OutcomeKind.FAILED, 5, id="named"),
        pytest.param(
            {5: SEVERED, 4: ROLLED_BACK}, False, False, OutcomeKind.ROLLED_BACK, 4, id="rolled back"
        ),
        pytest.param({4: BUG}, False, False, None, None, id="a bug, or a peer's death"),
        pytest.param({4: BUG}, False, True, OutcomeKind.FAILED, 4, id="a bug"),
        pytest.param({4: BUG}, True, True, OutcomeKind.ABANDONED, None, id="a peer's death"),
        pytest.param({4: PREEMPTED}, False, True, None, None, id="the other still saves"),
        pytest.param({4: PREEMPTED, 5: PREEMPTED}, False, False, OutcomeKind.DRAINED, 5, id="left"),
        pytest.param({4: PREEMPTED, 5: SEVERED}, False, False, None, None, id="left, severed"),
        pytest.param(
            {4: PREEMPTED, 5: SEVERED}, False, True, OutcomeKind.SEVERED, 5, id="not all saved"
        ),
    ],
)
def test_judgement(
    endings: dict[int, Ending], over: bool, settled: bool, kind: OutcomeKind | None, rank: int
) -> None:
    outcome = judge_round(endings, 2, is_over=over, is_settled=settled)
    if kind is None:
        assert outcome is None
    else:
        assert outcome is not None
        assert (outcome.kind, outcome.rank) == (kind, rank)


def test_result_is_that_of_the_first_rank() -> None:
    other = RankFinished(result=StageResult(step=11))
    outcome = judge_round({5: other, 4: DONE}, 2, is_over=False, is_settled=False)
    assert outcome is not None
    assert outcome.result == RESULT


def test_a_killed_rank_is_named_with_its_signal() -> None:
    outcome = judge_round({4: KILLED}, 2, is_over=False, is_settled=False)
    assert outcome is not None
    assert outcome.message == "rank 4 was killed by SIGKILL"


@pytest.mark.parametrize(
    ("endings", "kind"),
    [
        pytest.param({}, OutcomeKind.HUNG, id="nothing else happened"),
        pytest.param({4: SEVERED}, None, id="something did"),
        pytest.param({4: KILLED}, OutcomeKind.LOST, id="that is why"),
    ],
)
def test_ranks_that_stand_still(endings: dict[int, Ending], kind: OutcomeKind | None) -> None:
    stall = Stall(
        ranks=(5, 4), phase=RankPhase.TRAINING, step=7, silent_seconds=6.0, limit_seconds=5.5
    )
    outcome = judge_round(endings, 2, is_over=False, is_settled=False, stall=stall)
    assert (outcome.kind if outcome is not None else None) == kind
    assert stall.describe() == (
        "ranks 5, 4 stood still for 6.0 s, in phase training at step 7 "
        "(at most 5.5 s would be usual)"
    )


@pytest.mark.parametrize(
    ("kind", "limit", "error"),
    [
        (OutcomeKind.HUNG, MAX_HUNG_ROUNDS, RanksHungError),
        (OutcomeKind.LOST, MAX_LOST_ROUNDS, RanksLostError),
        (OutcomeKind.SEVERED, MAX_SEVERED_ROUNDS, PeersLostError),
    ],
)
def test_budget_ends_where_the_same_recurs_without_a_checkpoint(
    kind: OutcomeKind, limit: int, error: type[StageError]
) -> None:
    lost = Outcome(kind=kind, message="rank 1 was killed by SIGBUS")
    budget = RestartBudget()
    given_up = [budget.count(lost, checkpoint_step=None) for _ in range(limit)]
    assert given_up[:-1] == [None] * (limit - 1)
    assert isinstance(given_up[-1], error)
    assert f"the {limit}. such round in a row since the start" in given_up[-1].message


def test_a_newer_checkpoint_forgives() -> None:
    lost = Outcome(kind=OutcomeKind.LOST)
    budget = RestartBudget()
    for step in range(3 * MAX_LOST_ROUNDS):
        assert budget.count(lost, checkpoint_step=step) is None


def test_rounds_that_ended_elsewhere_cost_nothing() -> None:
    budget = RestartBudget()
    for _ in range(100):
        assert budget.count(Outcome(kind=OutcomeKind.ABANDONED), checkpoint_step=None) is None
