"""What the pod says of its ranks, from what they said."""

from __future__ import annotations

from llmtrain_api.records import RankPhase, Stage
from llmtrain_trainer.agent.board import Board
from llmtrain_trainer.progress import RankUpdate


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def make_board(clock: Clock) -> Board:
    return Board(stage=Stage.TRAIN, index=1, incarnation=2, total_steps=100, clock=clock)


def say(
    rank: int, step: int, phase: RankPhase, *, at: float = 40.0, **facts: float | bool | str
) -> RankUpdate:
    return RankUpdate(
        rank=rank,
        phase=phase,
        step=step,
        sent_at=at,
        facts=facts,
        phase_seconds={"training": float(step)},
    )


def test_progress_is_the_word_of_the_first_rank_and_the_heartbeats_of_all() -> None:
    board = make_board(Clock())
    board.begin_round()
    board.record(say(2, 7, RankPhase.TRAINING, loss=1.5, checkpoint_step=5))
    board.record(say(3, 6, RankPhase.TRAINING, loss=9.0))
    progress = board.read()
    assert (progress.index, progress.incarnation, progress.round) == (1, 2, 1)
    assert (progress.step, progress.loss, progress.checkpoint_step) == (7, 1.5, 5)
    assert [(rank.rank, rank.step) for rank in progress.ranks] == [(2, 7), (3, 6)]
    assert board.checkpoint_at == 40.0


def test_new_round_keeps_what_stays_true() -> None:
    board = make_board(Clock())
    board.begin_round()
    board.record(say(2, 7, RankPhase.TRAINING, checkpoint_step=5, resumed_step=0))
    board.begin_round()
    board.record(say(2, 0, RankPhase.RESTORING))
    progress = board.read()
    assert (progress.round, progress.step, progress.checkpoint_step) == (2, 7, 5)
    assert progress.resumed_step is None
    board.record(say(2, 6, RankPhase.TRAINING, resumed_step=5))
    assert board.read().step == 6


def test_checkpoint_of_another_worker_counts_where_it_is_newer() -> None:
    board = make_board(Clock())
    board.note_checkpoint(4)
    board.note_checkpoint(3)
    board.note_checkpoint(None)
    assert (board.checkpoint_step, board.checkpoint_at) == (4, 50.0)


def test_recovery_is_split_as_far_as_it_has_come() -> None:
    clock = Clock()
    board = make_board(clock)
    board.begin_round()
    board.record(say(2, 7, RankPhase.TRAINING))
    clock.now = 60.0
    board.lose_round("lost", "rank 2 was killed")
    board.begin_round()
    board.record(say(2, 0, RankPhase.RENDEZVOUS, at=60.5))
    board.record(say(2, 0, RankPhase.RESTORING, at=61.5))
    assert board.recovery is not None
    assert board.recovery.list_parts() == {"respawn": 0.5, "rendezvous": 1.0}
    board.record(say(2, 5, RankPhase.RESTORING, at=62.0, resumed_step=5))
    board.record(say(2, 5, RankPhase.TRAINING, at=63.5))
    board.record(say(2, 6, RankPhase.TRAINING, at=63.75))
    board.record(say(2, 7, RankPhase.TRAINING, at=64.0))
    assert board.recovery.list_parts() == {
        "respawn": 0.5,
        "rendezvous": 1.0,
        "restore": 2.0,
        "first_step": 0.25,
    }
    assert dict(board.restarts) == {"lost": 1}
    assert board.read().last_loss == "rank 2 was killed"
