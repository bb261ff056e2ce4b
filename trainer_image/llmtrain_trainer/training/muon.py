"""Muon: momentum whose matrices are made orthogonal before they are added.

Below: torch. Above: `optim`, which hands it the matrices of blocks, and all else to AdamW.

`torch.optim.Muon` is the same algorithm (a test holds the updates to it), but knows no sharded
parameters, and multiplies in bfloat16 always, in which runs of several ranks would not keep the
loss of one. Here products are as those of the model: bfloat16 where it computes in that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from llmtrain_api.optimizer import OptimizerSpec
from llmtrain_trainer.parallel import cut_shard, find_shard, gather_shards

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
SMALLEST_NORM = 1e-7
"""All three of Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks."""

ADAMW_UPDATE = 0.2
"""Root mean square of an update of AdamW, for a learning rate of 1 (Liu et al. 2025)."""


class Muon:
    """Muon (Jordan et al. 2024), scaled as AdamW's updates are (Liu et al. 2025, arXiv:2502.16982).

    So it takes AdamW's learning rate and weight decay.
    """

    def __init__(
        self, matrices: Mapping[str, nn.Parameter], spec: OptimizerSpec, *, products: torch.dtype
    ) -> None:
        """Begin with a momentum of zero; products are of the given type."""
        self._spec = spec
        self._matrices = dict(matrices)
        self._momenta = {name: torch.zeros_like(p) for name, p in self._matrices.items()}
        # In float16 small singular values would be lost.
        self._dtype = torch.float32 if products is torch.float16 else products

    def named_state(self) -> dict[str, torch.Tensor]:
        """Return the running means of gradients; they are live."""
        return {f"momentum.{name}": tensor for name, tensor in self._momenta.items()}

    def update(self, learning_rate: float, steps: torch.Tensor, scale: torch.Tensor | None) -> None:
        """Update once; see `AdamW.update`.

        Of sharded matrices the means are gathered, one matrix at a time, and every rank makes the
        whole one orthogonal: with these, all ranks must call it.
        """
        momentum = self._spec.momentum
        decay = 1.0 - learning_rate * self._spec.find_weight_decay()
        for name, matrix in self._matrices.items():
            if matrix.grad is None:
                continue
            gradient = find_shard(matrix.grad)
            if scale is not None:
                gradient = gradient / scale
            mean = find_shard(self._momenta[name])
            mean.lerp_(gradient, 1.0 - momentum)
            ahead = gradient.lerp(mean, momentum)  # after Nesterov
            if isinstance(matrix, DTensor):
                ahead = gather_shards(_wrap_shard(ahead, matrix))
            whole = make_orthogonal(ahead, dtype=self._dtype)
            rate = learning_rate * ADAMW_UPDATE * math.sqrt(max(matrix.shape))
            weights = find_shard(matrix.detach())
            weights.mul_(decay).add_(cut_shard(whole, matrix), alpha=-rate)


def make_orthogonal(matrix: torch.Tensor, *, dtype: torch.dtype) -> torch.Tensor:
    """Return about the nearest matrix whose rows, or columns, are orthonormal [m, n].

    By a Newton–Schulz iteration of fifth order, after which singular values are between 0.7 and
    1.2 (Jordan et al. 2024).
    """
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    wide = (matrix.T if is_tall else matrix).to(dtype)
    wide = wide / wide.norm().clamp(min=SMALLEST_NORM)
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if is_tall else wide


def _wrap_shard(shard: torch.Tensor, like: DTensor) -> DTensor:
    return DTensor.from_local(
        shard,
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )
