"""How a model lies on the ranks: whole on each, divided over them, or both.

Below: FSDP2 of torch, `accelerate`, which prepares the model for DDP and autocast, and
`tensor_parallel` with `copies` where several ranks share the matrices of a block; `parallel`.
Above: `training`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers.modeling_utils import PreTrainedModel

from llmtrain_api.workers import Strategy
from llmtrain_trainer.copies import Copies
from llmtrain_trainer.parallel import Ranks, place_model
from llmtrain_trainer.precision import Arithmetic
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.tensor_parallel import TENSOR, divide_blocks

REPLICATE, SHARD = "replicate", "shard"
"""Dimensions of the ranks' mesh: over one there are copies, over the other parts."""

EMBEDDING_CLASSES = {"BertEmbeddings"}
"""Never sharded as blocks: the output layer is the same matrix, and so belongs with them."""


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


def skip_gradient_sync(model: nn.Module) -> AbstractContextManager[None]:
    """Return a block in which backward passes only accumulate, without talking to peers."""
    if isinstance(model, DistributedDataParallel | Copies):
        return model.no_sync()
    if isinstance(model, FSDPModule):
        return _accumulate_shards(model)
    return nullcontext()


def forget_gathered(model: nn.Module) -> None:
    """Have the model's parameters be the shards again, which FSDP left whole after evaluations."""
    if isinstance(model, FSDPModule):
        model.reshard()


@contextmanager
def _accumulate_shards(model: FSDPModule) -> Iterator[None]:
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


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
