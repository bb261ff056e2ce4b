"""AdamW, gradient clipping and the learning rate.

Below: torch's fused kernel. Above: `train` steps it, `checkpoint` saves its tensors.

`torch.optim.Optimizer` imports dynamo and inductor when the first one is made, which costs a
fresh process 4–5 s and 150 MiB. This AdamW calls the same fused kernel on the same tensors, so
its numbers are those of `torch.optim.AdamW(fused=True)` (a test holds that), at no such cost.
Where parameters are sharded (DTensor) it works on the local shards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from llmtrain_api.optimizer import OptimizerSpec, Schedule
from llmtrain_trainer.checkpoint.manifest import WEIGHT

EPSILON = 1e-8
MAX_DEFAULT_WARMUP_STEPS = 1000
CLIP_EPSILON = 1e-6
"""Keeps the clip factor finite, as in `torch.nn.utils.clip_grad_norm_`."""


class AdamW:
    """AdamW with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    def __init__(
        self, named_parameters: Iterable[tuple[str, nn.Parameter]], spec: OptimizerSpec
    ) -> None:
        """Optimize the parameters that need gradients; matrices decay, vectors do not.

        Build it after the model is sharded: shards replace the parameters.
        """
        self._spec = spec
        self._parameters = {name: p for name, p in named_parameters if p.requires_grad}
        self._means = {name: torch.zeros_like(p) for name, p in self._parameters.items()}
        self._squares = {name: torch.zeros_like(p) for name, p in self._parameters.items()}
        device = next(iter(self._parameters.values())).device
        self._steps = torch.zeros((), dtype=torch.float32, device=device)

    def named_state(self) -> dict[str, torch.Tensor]:
        """Return the tensors that make up the state, by stable names; they are live.

        The parameters are those that are stepped: with FSDP the shards, even while a model that
        was evaluated still has some of them whole.
        """
        weights = {f"{WEIGHT}{name}": p.detach() for name, p in self._parameters.items()}
        means = {f"mean.{name}": tensor for name, tensor in self._means.items()}
        squares = {f"square.{name}": tensor for name, tensor in self._squares.items()}
        return {**weights, **means, **squares}

    def set_step(self, step: int) -> None:
        """Go on from a state that is `step` updates old."""
        self._steps.fill_(step)

    def clear_gradients(self) -> None:
        """Drop the gradients of the last step."""
        for parameter in self._parameters.values():
            parameter.grad = None

    def compute_gradient_norm(self) -> torch.Tensor:
        """Return the L2 norm over all gradients and all shards, float32 [].

        With sharded parameters every rank must call it: it sums over the ranks.
        """
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        norm: torch.Tensor = torch.stack(
            torch._foreach_norm([_find_local(g) for g in gradients])
        ).norm()
        sharded = next((g for g in gradients if isinstance(g, DTensor)), None)
        if sharded is not None:
            squared = norm.square()
            # The last dimension of the mesh has the parts; over a first one there are copies.
            torch.distributed.all_reduce(squared, group=sharded.device_mesh.get_group(-1))
            norm = squared.sqrt()
        return norm

    def step(self, learning_rate: float, gradient_norm: torch.Tensor) -> None:
        """Update the parameters once, with gradients scaled down to the clip norm.

        The kernel applies the clip factor as it reads the gradients, which saves a pass.
        """
        spec = self._spec
        self._steps += 1
        scale = None
        if spec.gradient_clip_norm > 0:
            scale = ((gradient_norm + CLIP_EPSILON) / spec.gradient_clip_norm).clamp(min=1.0)
        for decays in (True, False):
            names = [
                name
                for name, p in self._parameters.items()
                if (p.ndim >= 2) is decays and p.grad is not None and _find_local(p).numel()
            ]
            if not names:
                continue
            torch._fused_adamw_(
                [_find_local(self._parameters[name].detach()) for name in names],
                [_find_local(self._parameters[name].grad) for name in names],
                [_find_local(self._means[name]) for name in names],
                [_find_local(self._squares[name]) for name in names],
                [],
                [self._steps] * len(names),
                lr=learning_rate,
                beta1=spec.beta1,
                beta2=spec.beta2,
                weight_decay=spec.weight_decay if decays else 0.0,
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
                grad_scale=scale,
                found_inf=None,
            )


def compute_learning_rate(
    step: int, spec: OptimizerSpec, total_steps: int, *, peak: float
) -> float:
    """Return the learning rate of step `step` (counted from 1): linear warm-up, then a schedule.

    Cosine: Loshchilov and Hutter 2017 (arXiv:1608.03983). Warm-up, stable, decay (wsd): Hu et al.
    2024 (arXiv:2404.06395); in a line, Hägele et al. 2024 (arXiv:2405.18392).
    """
    warmup = spec.warmup_steps
    if warmup is None:
        warmup = min(MAX_DEFAULT_WARMUP_STEPS, total_steps // 10)
    if step <= warmup:
        return peak * step / warmup
    if spec.schedule is Schedule.CONSTANT:
        return peak
    begin = warmup
    if spec.schedule is Schedule.WSD:
        begin = max(warmup, total_steps - round(spec.decay_fraction * total_steps))
    progress = min(1.0, max(0.0, (step - begin) / max(1, total_steps - begin)))
    left = 1.0 - progress
    if spec.schedule is Schedule.COSINE:
        left = 0.5 * (1.0 + math.cos(math.pi * progress))
    floor = spec.final_learning_rate_ratio
    return peak * (floor + (1.0 - floor) * left)


def _find_local(tensor: torch.Tensor | None) -> torch.Tensor:
    assert tensor is not None
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
