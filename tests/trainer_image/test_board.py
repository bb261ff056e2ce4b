"""What the pod says of its ranks, from what they said."""

from __future__ import annotations

from llmtrain_api.records import RankPhase, Stage
from llmtrain_trainer.board import ProgressBoard
from llmtrain_trainer.progress import RankUpdate


def make_board() -> ProgressBoard:
    return ProgressBoard(
        stage=Stage.TRAIN, index=1, incarnation=2, total_steps=100, clock=lambda: 50.0
    )


def say(rank: int, step: int, phase: RankPhase, **facts: float | bool) -> RankUpdate:
    return RankUpdate(
        rank=rank,
        phase=phase,
        step=step,
        sent_at=40.0,
        facts=facts,
        phase_seconds={"training": float(step)},
    )


def test_progress_is_the_word_of_the_first_rank_and_the_heartbeats_of_all() -> None:
    board = make_board()
    board.begin_round()
    board.post(say(2, 7, RankPhase.TRAINING, loss=1.5, checkpoint_step=5))
    board.post(say(3, 6, RankPhase.TRAINING, loss=9.0))
    progress = board.read_progress()
    assert (progress.index, progress.incarnation, progress.round) == (1, 2, 1)
    assert (progress.step, progress.loss, progress.checkpoint_step) == (7, 1.5, 5)
    assert [(rank.rank, rank.step) for rank in progress.ranks] == [(2, 7), (3, 6)]
    assert board.locate(3).rank == 3
    assert board.locate().step == 7


def test_new_round_keeps_what_stays_true() -> None:
    board = make_board()
    board.begin_round()
    board.post(say(2, 7, RankPhase.TRAINING, loss=1.5, checkpoint_step=5, resumed_step=0))
    board.begin_round()
    board.post(say(2, 0, RankPhase.RESTORING))
    progress = board.read_progress()
    assert (progress.round, progress.step, progress.checkpoint_step) == (2, 7, 5)
    assert (progress.loss, progress.resumed_step) == (None, None)
    board.post(say(2, 6, RankPhase.TRAINING, resumed_step=5))
    assert board.read_progress().step == 6
    assert board.sum_phase_seconds() == {"training": 13.0}
