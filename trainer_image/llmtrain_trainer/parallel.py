"""The ranks that train together: meeting, small agreements, who has which part of a tensor.

Below: torch.distributed. Above: `spreading`, which lays a model on them, `train`, `checkpoint`.
Rank 0's launcher serves one TCPStore for each round; every rank, rank 0 too, connects to it as a
client, so addresses of a dead round are never met.

With one rank there is no process group, and every agreement is the rank's own word.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState
from torch import distributed, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.nn.parallel import DistributedDataParallel

from llmtrain_trainer.copies import Copies
from llmtrain_trainer.linux import count_usable_cores
from llmtrain_trainer.rank_group import RankGroup

COLLECTIVE_TIMEOUT = timedelta(minutes=10)
"""Longest wait for a peer in a collective. Agents end a round long before, when a rank dies."""

STORE_TIMEOUT = timedelta(minutes=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """A rank's view of the ranks that train together."""

    group: RankGroup
    device: torch.device
    store: distributed.TCPStore | None
    """Key-value store of this round; None with one rank."""

    tensor_parallel: int = 1
    """How many ranks, one after the other, divide matrices among them and read the same samples."""

    @property
    def num_readers(self) -> int:
        """Groups of ranks that read different samples."""
        return self.group.world_size // self.tensor_parallel

    @property
    def reader(self) -> int:
        """Which of these this rank belongs to, from 0."""
        return self.group.rank // self.tensor_parallel

    @property
    def is_counted(self) -> bool:
        """Whether what this rank read goes into sums: of a group only the first one's."""
        return self.group.rank % self.tensor_parallel == 0

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which speaks for all."""
        return self.group.rank == 0

    @property
    def host_leader(self) -> int:
        """The first rank on this rank's host."""
        return self.group.rank - self.group.local_rank

    @property
    def num_hosts(self) -> int:
        """Hosts that the ranks are on."""
        return self.group.world_size // self.group.local_world_size

    def connect_store(self) -> distributed.TCPStore | None:
        """Open a connection of its own to the round's store, for use in another thread."""
        return _connect_store(self.group) if self.group.world_size > 1 else None

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum `values` over the ranks, in place."""
        if self.group.world_size > 1:
            distributed.all_reduce(values)
        return values

    def begin_sum(self, values: torch.Tensor) -> distributed.Work | None:
        """Begin to sum `values` over the ranks; they are valid once the returned work is done."""
        if self.group.world_size == 1:
            return None
        return distributed.all_reduce(values, async_op=True)

    def gather(self, value: float) -> list[float]:
        """Return the number of every rank, in their order."""
        values = torch.zeros(self.group.world_size, dtype=torch.float64, device=self.device)
        values[self.group.rank] = value
        return [float(number) for number in self.sum(values)]

    def all_agree(self, agreed: bool) -> bool:
        """Return whether every rank says yes."""
        votes = torch.tensor(float(agreed), device=self.device)
        return int(self.sum(votes).item()) == self.group.world_size

    def share(self, key: str, value: Any | None, *, source: int) -> Any:
        """Return the JSON-ready value of rank `source` on every rank; `key` must be new."""
        if self.store is None:
            return value
        if self.group.rank == source:
            self.store.set(key, json.dumps(value))
        return json.loads(self.store.get(key))

    def collect(self, key: str, value: Any) -> list[Any]:
        """Return the JSON-ready values of all ranks, by rank, on every rank; `key` must be new."""
        self.wait()  # with more patience than the store has
        ranks = range(self.group.world_size)
        return [self.share(f"{key}/{rank}", value, source=rank) for rank in ranks]

    def wait(self) -> None:
        """Wait until every rank is here."""
        self.all_agree(True)


@contextmanager
def join_ranks(group: RankGroup, *, threads: int, tensor_parallel: int = 1) -> Iterator[Ranks]:
    """Join the other ranks of the round; leave them at the end of the block.

    `tensor_parallel` ranks each read the same samples.
    """
    torch.set_num_threads(threads)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", group.local_rank)
        torch.cuda.set_device(device)
    store = None
    if group.world_size > 1:
        store = _connect_store(group)
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=distributed.PrefixStore("collectives", store),
            rank=group.rank,
            world_size=group.world_size,
            timeout=COLLECTIVE_TIMEOUT,
            device_id=device if device.type == "cuda" else None,
        )
    try:
        yield Ranks(group=group, device=device, store=store, tensor_parallel=tensor_parallel)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        if group.world_size > 1:
            distributed.destroy_process_group()


def place_model(model: nn.Module, device: torch.device) -> nn.Module:
    """Move the model's tensors to `device`, in place."""
    return model.to(device)


def find_plain_model(model: nn.Module) -> nn.Module:
    """Return the model within the wrapper of its copies, if it has one."""
    inner = model.module if isinstance(model, DistributedDataParallel | Copies) else model
    assert isinstance(inner, nn.Module)
    return inner


def gather_parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return every trained parameter whole, on the CPU. Every rank must call it."""
    return {
        name: gather_shards(p.detach()).cpu()
        for name, p in find_plain_model(model).named_parameters()
        if p.requires_grad
    }


def gather_shards(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor whole. Of a sharded one every rank must call it."""
    if not isinstance(tensor, DTensor):
        return tensor
    placements = list(tensor.placements)
    for dimension in range(len(placements)):
        # One after the other: FSDP divides the rows of those that a tensor group has divided.
        placements[dimension] = Replicate()
        tensor = tensor.redistribute(placements=placements)
    return tensor.to_local()


def find_shard(tensor: torch.Tensor | None) -> torch.Tensor:
    """Return this rank's part of a sharded tensor, in place; of another one all of it."""
    assert tensor is not None
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def cut_shard(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return the part of `whole` that this rank has of `like`, which is as large; a view."""
    if not isinstance(like, DTensor):
        return whole
    shape, offset = compute_local_shape_and_global_offset(
        like.shape, like.device_mesh, like.placements
    )
    for dimension, (start, length) in enumerate(zip(offset, shape, strict=True)):
        whole = whole.narrow(dimension, start, length)
    return whole


def count_threads(configured: int | None, ranks_on_host: int) -> int:
    """Return the threads of a rank: as configured, or its share of the usable cores."""
    if configured is not None:
        return configured
    return max(1, count_usable_cores() // ranks_on_host)


def _connect_store(group: RankGroup) -> distributed.TCPStore:
    return distributed.TCPStore(
        group.store_host, group.store_port, is_master=False, timeout=STORE_TIMEOUT
    )
