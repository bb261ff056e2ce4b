"""Every element of the state is saved once, and the shares are even."""

from __future__ import annotations

import pytest
import torch

from llmtrain_trainer.checkpoint.division import divide_state
from llmtrain_trainer.checkpoint.part_file import copy_overlap

STATE = {
    "embedding": torch.arange(101 * 7, dtype=torch.float32).view(101, 7),
    "bias": torch.arange(5, dtype=torch.float32),
    "step": torch.tensor(3.0),
    "wide": torch.arange(2 * 3 * 4, dtype=torch.float64).view(2, 3, 4),
    "empty": torch.zeros(0, 4),
}
ROW_BYTES = 3 * 4 * 8
"""The longest row of STATE."""


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 64])
def test_parts_are_even_and_together_the_state(world_size: int) -> None:
    total = sum(tensor.nbytes for tensor in STATE.values())
    rebuilt = {name: torch.full_like(tensor, -1.0) for name, tensor in STATE.items()}
    saved = 0
    for rank in range(world_size):
        pieces = divide_state(STATE, rank=rank, world_size=world_size)
        size = sum(piece.data.nbytes for piece in pieces)
        assert abs(size - total / world_size) <= ROW_BYTES
        assert len({piece.name for piece in pieces}) == len(pieces)
        saved += size
        for piece in pieces:
            rows = piece.data.shape[0] if piece.data.ndim else 1
            first = piece.offset[0] if piece.offset else 0
            target = rebuilt[piece.name]
            (target[first : first + rows] if piece.data.ndim else target).copy_(piece.data)
    assert saved == total
    assert all(torch.equal(rebuilt[name], tensor) for name, tensor in STATE.items())


def test_pieces_are_views_of_the_live_state() -> None:
    state = {"weight": torch.zeros(4, 2)}
    (piece,) = divide_state(state, rank=1, world_size=2)
    state["weight"].fill_(1.0)
    assert piece.offset == (2, 0)
    assert torch.equal(piece.data, torch.ones(2, 2))


@pytest.mark.parametrize("saved_by", [1, 3])
@pytest.mark.parametrize("read_by", [1, 2, 5])
def test_any_division_is_read_by_any_other(saved_by: int, read_by: int) -> None:
    sources = [
        piece
        for rank in range(saved_by)
        for piece in divide_state(STATE, rank=rank, world_size=saved_by)
    ]
    blank = {name: torch.full_like(tensor, -1.0) for name, tensor in STATE.items()}
    for rank in range(read_by):
        for target in divide_state(blank, rank=rank, world_size=read_by):
            copied = sum(copy_overlap(s, target) for s in sources if s.name == target.name)
            assert copied == target.data.numel()
    assert all(torch.equal(blank[name], tensor) for name, tensor in STATE.items())
