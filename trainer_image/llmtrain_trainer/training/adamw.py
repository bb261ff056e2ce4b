"""AdamW, by torch's fused kernel.

Below: torch. Above: `optim`, which hands it its parameters.

`torch.optim.Optimizer` imports dynamo and inductor when the first one is made, which costs a
fresh process 4–5 s and 150 MiB. This AdamW calls the same fused kernel on the same tensors, so
its numbers are those of `torch.optim.AdamW(fused=True)` (a test holds that), at no such cost.
Where parameters are sharded (DTensor) it works on the local shards.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from llmtrain_api.optimizer import OptimizerSpec
from llmtrain_trainer.parallel import find_shard

EPSILON = 1e-8


class AdamW:
    """AdamW with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], spec: OptimizerSpec) -> None:
        """Begin with moments of zero; matrices decay, vectors do not."""
        self._spec = spec
        self._parameters = dict(parameters)
        self._means = {name: torch.zeros_like(p) for name, p in self._parameters.items()}
        self._squares = {name: torch.zeros_like(p) for name, p in self._parameters.items()}

    def named_state(self) -> dict[str, torch.Tensor]:
        """Return the running means of gradients and of their squares; they are live."""
        means = {f"mean.{name}": tensor for name, tensor in self._means.items()}
        squares = {f"square.{name}": tensor for name, tensor in self._squares.items()}
        return {**means, **squares}

    def update(self, learning_rate: float, steps: torch.Tensor, scale: torch.Tensor | None) -> None:
        """Update once; the kernel divides gradients by `scale` as it reads them.

        Args:
            learning_rate: of this step.
            steps: updates so far, this one counted, float32 [].
            scale: what gradients are divided by, float32 [].
        """
        spec = self._spec
        for decays in (True, False):
            names = [
                name
                for name, p in self._parameters.items()
                if (p.ndim >= 2) is decays and p.grad is not None and find_shard(p).numel()
            ]
            if not names:
                continue
            torch._fused_adamw_(
                [find_shard(self._parameters[name].detach()) for name in names],
                [find_shard(self._parameters[name].grad) for name in names],
                [find_shard(self._means[name]) for name in names],
                [find_shard(self._squares[name]) for name in names],
                [],
                [steps] * len(names),
                lr=learning_rate,
                beta1=spec.beta1,
                beta2=spec.beta2,
                weight_decay=spec.find_weight_decay() if decays else 0.0,
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
                grad_scale=scale,
                found_inf=None,
            )
