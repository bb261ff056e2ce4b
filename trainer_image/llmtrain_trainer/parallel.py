"""The ranks that train together: meeting, spreading the model, small agreements.

Below: torch.distributed with its FSDP2, `accelerate`, which prepares the model for DDP and
autocast, and `tensor_parallel` with `copies` where several ranks share the matrices of a block.
Above: `train`, `checkpoint`. Rank 0's launcher serves one TCPStore for each round; every rank,
rank 0 too, connects to it as a client, so addresses of a dead round are never met.

With one rank there is no process group, and every agreement is the rank's own word.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedDataParallelKwargs
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.nn.parallel import DistributedDataParallel
from transformers.modeling_utils import PreTrainedModel

from llmtrain_api.workers import Strategy
from llmtrain_trainer.copies import Copies
from llmtrain_trainer.linux import count_usable_cores
from llmtrain_trainer.precision import Arithmetic
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.tensor_parallel import TENSOR, divide_blocks

COLLECTIVE_TIMEOUT = timedelta(minutes=10)
"""Longest wait for a peer in a collective. Agents end a round long before, when a rank dies."""

STORE_TIMEOUT = timedelta(minutes=2)

REPLICATE, SHARD = "replicate", "shard"
"""Dimensions of the ranks' mesh: over one there are copies, over the other parts."""

EMBEDDING_CLASSES = {"BertEmbeddings"}
"""Never sharded as blocks: the output layer is the same matrix, and so belongs with them."""


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


def spread_model(
    model: PreTrainedModel, ranks: Ranks, strategy: Strategy, arithmetic: Arithmetic
) -> nn.Module:
    """Put the model on the rank's device and spread it over the ranks by `strategy`.

    FSDP keeps fp32 shards, computes in a half type where `arithmetic` says so, and always reduces
    gradients in fp32. HSDP does so among the ranks of a host, and sums the shards' gradients over
    hosts (Zhao et al. 2023, PyTorch FSDP, arXiv:2304.11277, section 3.2.2). With one rank all
    strategies are the plain model. With tensor parallelism blocks are divided first, and the rest
    is done over groups of ranks in place of ranks.
    """
    _describe_ranks(ranks.group, threads=torch.get_num_threads())
    is_divided = ranks.tensor_parallel > 1
    if is_divided or (strategy is not Strategy.DDP and ranks.group.world_size > 1):
        place_model(model, ranks.device)
        mesh = _arrange_ranks(ranks, strategy)
        if strategy is Strategy.DDP:
            divide_blocks(model, mesh)
            prepared = _prepare_model(model, ranks, arithmetic, wraps=False)
            return Copies(prepared, mesh.get_group(REPLICATE))
        if is_divided:
            divide_blocks(model, mesh[TENSOR])
            mesh = mesh[(SHARD,) if strategy is Strategy.FSDP else (REPLICATE, SHARD)]
        _shard_model(model, arithmetic, mesh)
        return model
    return _prepare_model(model, ranks, arithmetic, wraps=True)


def place_model(model: nn.Module, device: torch.device) -> nn.Module:
    """Move the model's tensors to `device`, in place."""
    return model.to(device)


def skip_gradient_sync(model: nn.Module) -> AbstractContextManager[None]:
    """Return a block in which backward passes only accumulate, without talking to peers."""
    if isinstance(model, DistributedDataParallel | Copies):
        return model.no_sync()
    if isinstance(model, FSDPModule):
        return _accumulate_shards(model)
    return nullcontext()


def find_plain_model(model: nn.Module) -> nn.Module:
    """Return the model within the wrapper of its copies, if it has one."""
    inner = model.module if isinstance(model, DistributedDataParallel | Copies) else model
    assert isinstance(inner, nn.Module)
    return inner


def gather_parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return every trained parameter whole, on the CPU. Every rank must call it."""
    return {
        name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().cpu()
        for name, p in find_plain_model(model).named_parameters()
        if p.requires_grad
    }


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


def forget_gathered(model: nn.Module) -> None:
    """Have the model's parameters be the shards again, which FSDP left whole after evaluations."""
    if isinstance(model, FSDPModule):
        model.reshard()


def count_threads(configured: int | None, ranks_on_host: int) -> int:
    """Return the threads of a rank: as configured, or its share of the usable cores."""
    if configured is not None:
        return configured
    return max(1, count_usable_cores() // ranks_on_host)


@contextmanager
def _accumulate_shards(model: FSDPModule) -> Iterator[None]:
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def _connect_store(group: RankGroup) -> distributed.TCPStore:
    return distributed.TCPStore(
        group.store_host, group.store_port, is_master=False, timeout=STORE_TIMEOUT
    )


def _arrange_ranks(ranks: Ranks, strategy: Strategy) -> DeviceMesh:
    """Return the ranks in a row; for HSDP a row for each host, over which shards are copied.

    Where matrices are divided, each place of it is a group of ranks: the last dimension.
    """
    local = ranks.group.local_world_size // ranks.tensor_parallel
    shapes = {
        Strategy.DDP: {REPLICATE: ranks.num_readers},
        Strategy.FSDP: {SHARD: ranks.num_readers},
        Strategy.HSDP: {REPLICATE: ranks.num_hosts, SHARD: local},
    }
    shape = shapes[strategy]
    if ranks.tensor_parallel > 1:
        shape[TENSOR] = ranks.tensor_parallel
    return init_device_mesh(ranks.device.type, tuple(shape.values()), mesh_dim_names=tuple(shape))


def _prepare_model(
    model: nn.Module, ranks: Ranks, arithmetic: Arithmetic, *, wraps: bool
) -> nn.Module:
    """Put the model on the rank's device and have it compute as `arithmetic` says.

    With several ranks and `wraps` DDP is around it.
    """
    if arithmetic.dtype is torch.float16:
        # accelerate would bring a scaler of its own, and refuses to do so on a CPU.
        model.forward = torch.autocast(ranks.device.type, torch.float16)(model.forward)
    accelerator = Accelerator(
        cpu=ranks.device.type == "cpu",
        mixed_precision="bf16" if arithmetic.dtype is torch.bfloat16 else "no",
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    # accelerate wraps whatever is trained, and nothing that is only evaluated.
    prepared = accelerator.prepare_model(model, evaluation_mode=not wraps)
    assert isinstance(prepared, nn.Module)
    return prepared


def _shard_model(model: PreTrainedModel, arithmetic: Arithmetic, mesh: DeviceMesh) -> None:
    """Shard each block for itself, and all else as one: embeddings are tied to the output layer.

    accelerate would make a unit of the last layers, which T5's three and BERT's two ties reach out
    of, and torch refuses that.
    """
    policy = MixedPrecisionPolicy(
        param_dtype=arithmetic.dtype if arithmetic.autocast else None,
        reduce_dtype=torch.float32,
    )
    names = set(model._no_split_modules or []) - EMBEDDING_CLASSES
    for module in list(model.modules()):
        if type(module).__name__ in names:
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def _describe_ranks(group: RankGroup, *, threads: int) -> None:
    """Tell accelerate, through the only way it reads, which rank this is."""
    if group.world_size == 1:
        return
    os.environ.update(
        RANK=str(group.rank),
        WORLD_SIZE=str(group.world_size),
        LOCAL_RANK=str(group.local_rank),
        LOCAL_WORLD_SIZE=str(group.local_world_size),
        MASTER_ADDR=group.store_host,
        MASTER_PORT=str(group.store_port),
        OMP_NUM_THREADS=str(threads),
    )
