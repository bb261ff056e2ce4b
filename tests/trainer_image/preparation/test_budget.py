"""A budget of tokens: kept, nearly used, and by the hash of documents."""

from __future__ import annotations

import random

import numpy as np
import pytest

from llmtrain_trainer.preparation import budget as budget_module
from llmtrain_trainer.preparation.budget import TokenBudget, find_share, plan_budget
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.splits import Part, Piece


def make_pieces(count: int, *, copies: int = 1) -> list[Piece]:
    draws = random.Random(0)
    texts = [f"{i} " + "x" * draws.randrange(50, 500) for i in range(count)]
    return [
        Piece(
            text=text,
            part=Part.VALIDATION if i % 10 == 0 else Part.TRAIN,
            document=Document(text, "place", 0),
            copies=copies,
        )
        for i, text in enumerate(texts)
    ]


def count_tokens(texts: list[str]) -> int:
    return sum(len(text) // 3 for text in texts)


def write(pieces: list[Piece], budget: TokenBudget) -> list[Piece]:
    return [
        piece
        for piece in budget.choose(pieces)
        if piece.part is not Part.TRAIN
        or budget.admit(piece, piece.copies * (len(piece.text) // 3))
    ]


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("sample", [5000, 10_000_000])
def test_budget_is_kept_and_nearly_used(
    monkeypatch: pytest.MonkeyPatch, copies: int, sample: int
) -> None:
    monkeypatch.setattr(budget_module, "SAMPLE_CHARACTERS", sample)
    pieces = make_pieces(4000, copies=copies)
    budget = plan_budget(100_000, pieces, count_tokens)
    written = write(pieces, budget)
    training = [piece for piece in written if piece.part is Part.TRAIN]
    used = copies * count_tokens([piece.text for piece in training])
    assert 95_000 < used <= 100_000
    assert sum(piece.part is Part.VALIDATION for piece in written) == 400
    assert budget.tally.documents_in == 3600
    assert budget.tally.documents_out == len(training)


def test_small_budget_is_within_the_larger_one() -> None:
    pieces = make_pieces(2000)
    small, large = (
        {piece.text for piece in write(pieces, plan_budget(size, pieces, count_tokens))}
        for size in (20_000, 60_000)
    )
    assert len(small - large) <= 0.02 * len(small)


def test_more_than_there_is_leaves_nothing_out() -> None:
    pieces = make_pieces(100)
    assert write(pieces, plan_budget(10_000_000, pieces, count_tokens)) == pieces


def test_share_is_that_of_the_lowest_draws() -> None:
    draws, lengths = np.array([0.9, 0.1, 0.5]), np.array([10.0, 20.0, 30.0])
    assert find_share(draws, lengths, 20.0) == 0.5
    assert find_share(draws, lengths, 55.0) == 0.9
    assert find_share(draws, lengths, 60.0) == 1.0
