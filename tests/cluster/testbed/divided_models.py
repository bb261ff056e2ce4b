"""Models whose matrices two real ranks divide, beside the whole ones.

Below: the trainer's `tensor_parallel`. Above: its tests; ranks cannot be forked from a test file.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from queue import Queue

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig

from llmtrain_api.network import ModelSpec
from llmtrain_trainer.model.configurations import configure_network
from llmtrain_trainer.parallel import find_shard, gather_shards, join_ranks
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.tensor_parallel import DIVISIBLE, TENSOR, divide_blocks

RANKS, SEQUENCES, LENGTH, VOCABULARY = 2, 2, 64, 500
SPEC = ModelSpec(architecture="llama", layers=3, heads=6, key_value_heads=2, hidden_size=96)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one rank found of a model."""

    loss: float
    whole_loss: float
    worst_gradient: float
    """The largest distance of a parameter's gradient from the whole model's, by its norm."""

    numbers: int
    """Of all parameters on this rank."""

    saved_bytes: dict[bool, int]
    """What autograd keeps beside parameters and logits, in fp32 and in bfloat16."""


def configure(model_type: str) -> PreTrainedConfig:
    """Return the configuration of `SPEC` as another type of model."""
    llama = configure_network(
        SPEC, vocabulary_size=VOCABULARY, sequence_length=LENGTH, end_of_text=0
    )
    kind: type[PreTrainedConfig] = CONFIG_MAPPING[model_type]
    return kind.from_dict({**llama.to_dict(), "model_type": model_type, "architectures": None})


def try_models(rank: int, port: int, outcomes: Queue[tuple[int, dict[str, Outcome]]]) -> None:
    """Compare each type of model, divided and whole, as one of the ranks."""
    group = RankGroup(
        rank=rank, world_size=RANKS, local_rank=rank, local_world_size=RANKS, store_port=port
    )
    with join_ranks(group, threads=1, tensor_parallel=RANKS):
        mesh = init_device_mesh("cpu", (RANKS,), mesh_dim_names=(TENSOR,))
        outcomes.put((rank, {name: try_model(name, mesh) for name in DIVISIBLE}))


def try_model(name: str, mesh: DeviceMesh) -> Outcome:
    """Do a backward pass of a model, divided and whole."""
    tokens = torch.randint(
        VOCABULARY, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(1)
    )
    torch.manual_seed(0)
    whole = AutoModelForCausalLM.from_config(configure(name), dtype=torch.float32)
    torch.manual_seed(0)
    divided = AutoModelForCausalLM.from_config(configure(name), dtype=torch.float32)
    divide_blocks(divided, mesh)
    losses = [model(input_ids=tokens, labels=tokens).loss for model in (whole, divided)]
    for loss in losses:
        loss.backward()
    worst = 0.0
    for expected, found in zip(whole.parameters(), divided.parameters(), strict=True):
        assert expected.grad is not None
        assert found.grad is not None
        distance = (gather_shards(found.grad) - expected.grad).norm() / expected.grad.norm()
        worst = max(worst, float(distance))
    return Outcome(
        loss=float(losses[1]),
        whole_loss=float(losses[0]),
        worst_gradient=worst,
        numbers=sum(find_shard(p).numel() for p in divided.parameters()),
        saved_bytes={
            bf16: measure_saved_bytes(divided, tokens, bf16=bf16) for bf16 in (False, True)
        },
    )


def measure_saved_bytes(model: torch.nn.Module, tokens: torch.Tensor, *, bf16: bool) -> int:
    own = {find_shard(p).untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, torch.Tensor] = {}  # kept, so that no address is used twice

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        logits = model(input_ids=tokens).logits
    assert logits.requires_grad
    return sum(t.untyped_storage().nbytes() for t in saved.values())


def compare_divided_models() -> dict[str, Outcome]:
    """Return what rank 0 found, by type of model."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["llmtrain_trainer.train"])
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    told = context.Queue()
    processes = [
        context.Process(target=try_models, args=(rank, store.port, told), daemon=True)
        for rank in range(RANKS)
    ]
    for process in processes:
        process.start()
    found: dict[int, dict[str, Outcome]] = dict(told.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    return found[0]
