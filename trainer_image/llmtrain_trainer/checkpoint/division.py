"""Which rank saves what: every element of the training state once, and each rank its share.

Below: torch. Above: `saving` (what a rank writes) and `restore` (what it needs).

Sharded tensors (FSDP, tensor parallelism) are divided already; where there are copies of shards
(HSDP, or what a tensor group has whole), each of the ranks that have one takes some of its rows.
What every rank holds whole (DDP) is one long line of rows, one tensor after the other, of which
rank r of W takes the r-th W-th: so parts differ by a row at most, and a tensor is cut only where
the line is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A block of a tensor of the state."""

    name: str
    offset: tuple[int, ...]
    """Where in the whole tensor it begins, by dimension."""

    data: torch.Tensor
    """Its elements, in place: a view of the live tensor."""


def find_local(name: str, tensor: torch.Tensor) -> Piece:
    """Return what this rank holds of a tensor: its shard, or all of it."""
    if not isinstance(tensor, DTensor):
        return Piece(name=name, offset=(0,) * tensor.ndim, data=tensor)
    _, offset = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    return Piece(name=name, offset=tuple(offset), data=tensor.to_local())


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Which of the ranks that have the same shard of a tensor one is."""

    number: int
    """From 0."""

    count: int


def find_copy(tensor: DTensor, *, rank: int, world_size: int) -> Copy:
    """Return which copy of its shard this rank has.

    The tensor's mesh has all ranks in their order, or each group of neighbours as one place: these
    all have the same shard.
    """
    mesh = tensor.device_mesh
    coordinates = mesh.get_coordinate()
    assert coordinates is not None
    number, count = 0, 1
    for place, size, placement in zip(coordinates, mesh.shape, tensor.placements, strict=True):
        if placement.is_replicate():
            number, count = number * size + place, count * size
    neighbours = world_size // mesh.size()
    return Copy(number=number * neighbours + rank % neighbours, count=count * neighbours)


def divide_shard(name: str, tensor: DTensor, copy: Copy) -> Piece:
    """Return the rows of this rank's shard that the rank with a copy of it saves."""
    shard = find_local(name, tensor)
    rows = shard.data.shape[0]
    first, last = rows * copy.number // copy.count, rows * (copy.number + 1) // copy.count
    offset = (shard.offset[0] + first, *shard.offset[1:])
    return Piece(name=name, offset=offset, data=shard.data[first:last])


def divide_state(tensors: Mapping[str, torch.Tensor], *, rank: int, world_size: int) -> list[Piece]:
    """Return the pieces that `rank` saves; those of all ranks together are the whole state.

    Of sharded tensors only this very rank's can be returned: others do not lie here.
    """
    pieces = [
        divide_shard(name, t, find_copy(t, rank=rank, world_size=world_size))
        for name, t in tensors.items()
        if isinstance(t, DTensor)
    ]
    whole = {name: t for name, t in tensors.items() if not isinstance(t, DTensor)}
    total = sum(tensor.nbytes for tensor in whole.values())
    begin, end = total * rank // world_size, total * (rank + 1) // world_size
    position = 0
    for name, tensor in whole.items():
        rows = tensor.shape[0] if tensor.ndim else 1
        row_bytes = max(1, tensor.nbytes // max(1, rows))
        # A row belongs to the part in which its first byte lies.
        first = min(rows, max(0, -((position - begin) // row_bytes)))
        last = min(rows, max(0, -((position - end) // row_bytes)))
        position += tensor.nbytes
        if first < last:
            data = tensor[first:last] if tensor.ndim else tensor
            offset = (first, *(0,) * (tensor.ndim - 1)) if tensor.ndim else ()
            pieces.append(Piece(name=name, offset=offset, data=data))
    return [piece for piece in pieces if piece.data.numel()]
