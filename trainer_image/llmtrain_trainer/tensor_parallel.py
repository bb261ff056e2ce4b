"""Tensor parallelism: each rank of a group has a part of the matrices of every block.

Below: torch; `transformers` for the plan of an architecture. Above: `parallel` divides a model
before it spreads it over the groups.

By the plan of Shoeybi et al. 2019 (Megatron-LM, arXiv:1909.08053, section 3): the matrices that
make queries, keys, values and the inner width are divided by their outputs, so that a rank has
whole heads, and those that lead back to the residual stream by their inputs. In each half of a
block one sum over the group is needed in the forward pass, and one in the backward pass. Norms,
embeddings and the output layer are whole on each rank; as the ranks of a group read the same
samples, they compute the same gradients for these.

Parameters are DTensors, by which checkpoints, FSDP and the optimizer know which part they are;
products are of plain tensors: dispatching DTensors costs as much as the products of small models.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor
from torch.nn import functional
from transformers import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from llmtrain_trainer.failures import ConfigurationError

TENSOR = "tensor"
"""The last dimension of the ranks' mesh: over it blocks are divided."""

DIVISIBLE = ("llama", "mistral", "qwen2")
"""Types of models whose plan in `transformers` asks for nothing but the two kinds of layers below.
A test holds each of them to it."""

BY_OUTPUTS, BY_INPUTS = "colwise", "rowwise"
"""What a plan of `transformers` calls the two."""


class DividedByOutputs(nn.Module):
    """A linear layer of which a rank computes some outputs, from all inputs."""

    def __init__(self, whole: nn.Linear, mesh: DeviceMesh) -> None:
        """Take this rank's rows of `whole`."""
        super().__init__()
        self.weight = _take_part(whole.weight, mesh, dimension=0)
        self.bias = None if whole.bias is None else _take_part(whole.bias, mesh, dimension=0)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return this rank's outputs [n, t, outputs / ranks] of all inputs [n, t, inputs]."""
        bias = None if self.bias is None else _find_local(self.bias)
        return functional.linear(inputs, _find_local(self.weight), bias)


class DividedByInputs(nn.Module):
    """A linear layer of which a rank reads some inputs; all outputs are summed over the ranks."""

    def __init__(self, whole: nn.Linear, mesh: DeviceMesh) -> None:
        """Take this rank's columns of `whole`."""
        super().__init__()
        self.weight = _take_part(whole.weight, mesh, dimension=1)
        self.bias = whole.bias
        self._group = mesh.get_group(TENSOR)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return all outputs [n, t, outputs] of this rank's inputs [n, t, inputs / ranks]."""
        own = functional.linear(inputs, _find_local(self.weight))
        outputs: torch.Tensor = _SumOutputs.apply(own, self._group)
        return outputs if self.bias is None else outputs + self.bias


def divide_blocks(model: PreTrainedModel, mesh: DeviceMesh) -> None:
    """Replace the layers that the plan of `model` divides by this rank's part of them.

    Args:
        model: whole, and the same on each rank. `check_divisible` has passed it.
        mesh: its last dimension is `TENSOR`; over others there are copies.
    """
    plan = model.tp_plan
    enterings = set()
    for name, module in list(model.named_modules()):
        style = plan.get(re.sub(r"\d+", "*", name))
        if style not in (BY_OUTPUTS, BY_INPUTS):
            continue
        assert isinstance(module, nn.Linear)
        parent_name, _, own_name = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        kind = DividedByOutputs if style == BY_OUTPUTS else DividedByInputs
        setattr(parent, own_name, kind(module, mesh))
        enterings.add(parent)
    for parent in enterings:
        _sum_gradients_of_inputs(parent, mesh.get_group(TENSOR))


def check_divisible(configuration: PreTrainedConfig, num_parts: int) -> None:
    """Hold a network to what a group of `num_parts` ranks can divide.

    Raises:
        ConfigurationError: its architecture has no plan, or its heads or widths do not come out.
    """
    if num_parts == 1:
        return
    if configuration.model_type not in DIVISIBLE:
        raise ConfigurationError(
            f"workers.tensorParallel ({num_parts}): a {configuration.model_type} has no plan to "
            f"divide its matrices by; {', '.join(DIVISIBLE)} have one",
            reason="TensorParallelImpossible",
            next_step="leave out workers.tensorParallel, and divide the model by "
            "workers.strategy: fsdp",
        )
    sizes = {
        "attention heads": configuration.num_attention_heads,
        "heads of keys and values": configuration.num_key_value_heads,
        "the inner width": configuration.intermediate_size,
    }
    for what, size in sizes.items():
        if size % num_parts:
            raise ConfigurationError(
                f"workers.tensorParallel ({num_parts}) must divide {what} of the model ({size})",
                reason="TensorParallelImpossible",
                next_step="lower workers.tensorParallel, or change the model's shape",
            )


class _SumOutputs(torch.autograd.Function):
    """Sums over the group; the gradient is each rank's own already (g of Megatron-LM, figure 3)."""

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, group: distributed.ProcessGroup) -> torch.Tensor:
        # A product that nothing else reads: it is summed in place.
        ctx.mark_dirty(own)
        distributed.all_reduce(own, group=group)
        return own

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


class _SumGradients(torch.autograd.Function):
    """Passes inputs on; their gradients are summed over the group (f of Megatron-LM, figure 3)."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, group: distributed.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return inputs.view_as(inputs)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total, group=ctx.group)
        return total, None


def _sum_gradients_of_inputs(module: nn.Module, group: distributed.ProcessGroup) -> None:
    """Have gradients of what a half of a block reads summed, once for all layers that read it."""

    def enter(
        _: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if arguments:
            return (_SumGradients.apply(arguments[0], group), *arguments[1:]), named
        states = _SumGradients.apply(named["hidden_states"], group)
        return arguments, {**named, "hidden_states": states}

    module.register_forward_pre_hook(enter, with_kwargs=True)


def _take_part(whole: torch.Tensor, mesh: DeviceMesh, *, dimension: int) -> nn.Parameter:
    copies: list[Placement] = [Replicate()] * (mesh.ndim - 1)
    # Every rank has the whole one: nothing is sent.
    part = distribute_tensor(whole.detach(), mesh, [*copies, Shard(dimension)], src_data_rank=None)
    return nn.Parameter(part, requires_grad=whole.requires_grad)


def _find_local(parameter: torch.Tensor) -> torch.Tensor:
    """Return a rank's part as a plain tensor, through which gradients find the DTensor."""
    assert isinstance(parameter, DTensor)
    return parameter.to_local()
