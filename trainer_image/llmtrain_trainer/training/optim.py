"""The optimizer of a run: what is updated by which rule, and gradient clipping.

Below: the rules `adamw`, `muon`, `adafactor`, and `loss_scale` for float16. Above: `step` steps it,
`checkpoint` saves its tensors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

import torch
from torch import nn
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor

from llmtrain_api.optimizer import OptimizerKind, OptimizerSpec
from llmtrain_trainer.checkpoint.manifest import WEIGHT
from llmtrain_trainer.parallel import find_shard
from llmtrain_trainer.training.adafactor import Adafactor
from llmtrain_trainer.training.adamw import AdamW
from llmtrain_trainer.training.loss_scale import LossScale
from llmtrain_trainer.training.muon import Muon

CLIP_EPSILON = 1e-6
"""Keeps the clip factor finite, as in `torch.nn.utils.clip_grad_norm_`."""


class Rule(Protocol):
    """How parameters are updated by their gradients."""

    def named_state(self) -> dict[str, torch.Tensor]:
        """Return the tensors that it keeps from step to step, by stable names; they are live."""

    def update(self, learning_rate: float, steps: torch.Tensor, scale: torch.Tensor | None) -> None:
        """Update once; see `AdamW.update`."""


class Optimizer:
    """What updates all trained parameters of a model."""

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        spec: OptimizerSpec,
        *,
        hidden_matrices: Collection[str] = (),
        products: torch.dtype = torch.float32,
    ) -> None:
        """Optimize the parameters that need gradients.

        Build it after the model is sharded: shards replace the parameters.

        Args:
            named_parameters: of the model.
            spec: the rule, and its numbers.
            hidden_matrices: names of those that Muon is for, `find_hidden_matrices`.
            products: type of the model's products; of float16 the loss is scaled.
        """
        self._spec = spec
        self._parameters = {name: p for name, p in named_parameters if p.requires_grad}
        self._rules = _make_rules(self._parameters, spec, hidden_matrices, products=products)
        device = next(iter(self._parameters.values())).device
        self._steps = torch.zeros((), dtype=torch.float32, device=device)
        self._loss_scale = LossScale(device) if products is torch.float16 else None

    def named_state(self) -> dict[str, torch.Tensor]:
        """Return the tensors that make up the state, by stable names; they are live.

        The parameters are those that are stepped: with FSDP the shards, even while a model that
        was evaluated still has some of them whole.
        """
        state = {f"{WEIGHT}{name}": p.detach() for name, p in self._parameters.items()}
        for rule in self._rules:
            state.update(rule.named_state())
        if self._loss_scale is not None:
            state["loss_scale"] = self._loss_scale.state
        return state

    @property
    def skipped(self) -> int | None:
        """Steps of the run whose gradients were beyond float16; None: products are not in it."""
        return None if self._loss_scale is None else self._loss_scale.skipped

    def set_step(self, step: int) -> None:
        """Go on from the state after step `step`, which is in the tensors of `named_state`."""
        self._steps.fill_(step - (self.skipped or 0))

    def scale_loss(self, loss: torch.Tensor) -> torch.Tensor:
        """Return what the backward pass begins with."""
        return loss if self._loss_scale is None else loss * self._loss_scale.scale

    def clear_gradients(self) -> None:
        """Drop the gradients of the last step."""
        for parameter in self._parameters.values():
            parameter.grad = None

    def compute_gradient_norm(self) -> torch.Tensor:
        """Return the L2 norm over all gradients and all shards, float32 [].

        With sharded parameters every rank must call it: it sums over the ranks.
        """
        kinds: dict[tuple[ProcessGroup, ...], list[torch.Tensor]] = {}
        for parameter in self._parameters.values():
            if parameter.grad is not None:
                groups = _list_sharing(parameter.grad)
                kinds.setdefault(groups, []).append(find_shard(parameter.grad))
        norms = []
        for groups, gradients in kinds.items():
            part: torch.Tensor = torch.stack(torch._foreach_norm(gradients)).norm()
            if groups:
                squared = part.square()
                for group in groups:
                    torch.distributed.all_reduce(squared, group=group)
                part = squared.sqrt()
            norms.append(part)
        norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
        return norm if self._loss_scale is None else norm / self._loss_scale.scale

    @torch.no_grad()
    def step(self, learning_rate: float, gradient_norm: torch.Tensor) -> bool:
        """Update the parameters once, with gradients scaled down to the clip norm.

        Returns whether that was done: gradients beyond float16 are left out, and the loss is
        scaled by less from then on.
        """
        scale = None
        if self._loss_scale is not None:
            scale = self._loss_scale.scale
            if not self._loss_scale.hear(gradient_norm):
                return False
        self._steps += 1
        if self._spec.gradient_clip_norm > 0:
            excess = ((gradient_norm + CLIP_EPSILON) / self._spec.gradient_clip_norm).clamp(min=1.0)
            scale = excess if scale is None else scale * excess
        for rule in self._rules:
            rule.update(learning_rate, self._steps, scale)
        return True


def find_hidden_matrices(model: nn.Module) -> frozenset[str]:
    """Return the names of the matrices within a model's numbered blocks, which Muon is for.

    Embeddings, the output layer and heads are not: what enters or leaves them are tokens and
    classes, not states (Jordan et al. 2024). Of gpt2, q, k and v are one matrix.
    """
    return frozenset(
        f"{path}.{name}"
        for path, module in model.named_modules()
        if any(part.isdigit() for part in path.split(".")) and not isinstance(module, nn.Embedding)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 2
    )


def _make_rules(
    parameters: Mapping[str, nn.Parameter],
    spec: OptimizerSpec,
    hidden_matrices: Collection[str],
    *,
    products: torch.dtype,
) -> list[Rule]:
    if spec.kind is OptimizerKind.ADAFACTOR:
        return [Adafactor(parameters, spec)]
    if spec.kind is OptimizerKind.ADAMW:
        return [AdamW(parameters, spec)]
    hidden = {name: p for name, p in parameters.items() if name in hidden_matrices}
    others = {name: p for name, p in parameters.items() if name not in hidden_matrices}
    return [Muon(hidden, spec, products=products), AdamW(others, spec)]


def _list_sharing(tensor: torch.Tensor) -> tuple[ProcessGroup, ...]:
    """Return the groups of ranks over which the parts of a tensor are; none where it is whole."""
    if not isinstance(tensor, DTensor):
        return ()
    mesh = tensor.device_mesh
    return tuple(
        mesh.get_group(dimension)
        for dimension, placement in enumerate(tensor.placements)
        if not placement.is_replicate()
    )
