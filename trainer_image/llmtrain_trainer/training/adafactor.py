"""Adafactor: a matrix's squared gradients are kept as one number for each row and each column.

Below: torch. Above: `optim`. `torch.optim.Adafactor` is the same algorithm (a test holds the
updates to it), but knows no sharded parameters, and waits for the device twice for each of them.

Where parameters are sharded by rows, what goes over all rows is summed over the ranks: the means
of columns and the sizes of weights in one sum, the sizes of updates in another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor

from llmtrain_api.optimizer import OptimizerSpec
from llmtrain_trainer.parallel import find_shard

DECAY_EXPONENT = -0.8
"""After t steps squares decay by 1 − t^-0.8."""

SMALLEST_SCALE = 1e-3
"""A parameter's step is relative to its own root mean square, which counts as this at least."""

MOST_UPDATE = 1.0
"""Root mean square above which an update is scaled down. All three: Shazeer and Stern 2018."""

EPSILON = torch.finfo(torch.float32).eps


class Adafactor:
    """Adafactor (Shazeer and Stern 2018, arXiv:1804.04235, algorithm 5), without momentum."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], spec: OptimizerSpec) -> None:
        """Begin with squares of zero; matrices decay, vectors do not."""
        self._spec = spec
        self._parameters = dict(parameters)
        matrices = {name: p for name, p in self._parameters.items() if p.ndim == 2}
        self._rows = {name: _make_rows(p) for name, p in matrices.items()}
        self._columns = {
            name: torch.zeros(p.shape[1], device=p.device) for name, p in matrices.items()
        }
        self._squares = {
            name: torch.zeros_like(p)
            for name, p in self._parameters.items()
            if name not in matrices
        }
        sharded = next((p for p in self._parameters.values() if isinstance(p, DTensor)), None)
        # The last dimension of the mesh has the parts; over a first one there are copies.
        self._group = None if sharded is None else sharded.device_mesh.get_group(-1)

    def named_state(self) -> dict[str, torch.Tensor]:
        """Return the running means of squares: of rows, of columns, of vectors; they are live."""
        rows = {f"rows.{name}": tensor for name, tensor in self._rows.items()}
        columns = {f"columns.{name}": tensor for name, tensor in self._columns.items()}
        squares = {f"square.{name}": tensor for name, tensor in self._squares.items()}
        return {**rows, **columns, **squares}

    def update(self, learning_rate: float, steps: torch.Tensor, scale: torch.Tensor | None) -> None:
        """Update once; see `AdamW.update`. With sharded parameters all ranks must call it."""
        named = {name: p for name, p in self._parameters.items() if p.grad is not None}
        gradients = {name: find_shard(p.grad) for name, p in named.items()}
        if scale is not None:
            gradients = {name: gradient / scale for name, gradient in gradients.items()}
        weights = {name: find_shard(p.detach()) for name, p in named.items()}
        matrices = [name for name in named if name in self._rows]
        columns, sizes = self._sum_over_shards(
            [gradients[name].square().sum(dim=0) for name in matrices],
            [weight.square().sum() for weight in weights.values()],
        )
        share = steps**DECAY_EXPONENT
        for name, column in zip(matrices, columns, strict=True):
            find_shard(self._rows[name]).lerp_(gradients[name].square().mean(dim=1), share)
            self._columns[name].lerp_(column / named[name].shape[0], share)
        for name in named:
            if name in self._squares:
                find_shard(self._squares[name]).lerp_(gradients[name].square(), share)
        updates = {
            name: gradient * self._estimate(name).clamp(min=EPSILON**2).rsqrt()
            for name, gradient in gradients.items()
        }
        lengths, _ = self._sum_over_shards(
            [update.square().sum() for update in updates.values()], []
        )
        most = torch.clamp(steps.rsqrt(), max=learning_rate)
        decay = 1.0 - learning_rate * self._spec.find_weight_decay()
        for (name, parameter), size, length in zip(named.items(), sizes, lengths, strict=True):
            count = parameter.numel()
            relative = (size / count).sqrt().clamp(min=SMALLEST_SCALE)
            excess = ((length / count).sqrt() / MOST_UPDATE).clamp(min=1.0)
            if parameter.ndim >= 2:
                weights[name].mul_(decay)
            weights[name].sub_(updates[name] * (most * relative / excess))

    def _estimate(self, name: str) -> torch.Tensor:
        """Return the running mean of squared gradients of this rank's part of a parameter.

        The mean of all rows, which the product is divided by, is that of all columns.
        """
        if name in self._squares:
            return find_shard(self._squares[name])
        rows, columns = find_shard(self._rows[name]), self._columns[name]
        return torch.outer(rows, columns / columns.mean().clamp(min=EPSILON))

    def _sum_over_shards(
        self, first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the sums over the ranks that have the other parts, in one exchange."""
        parts = [*first, *second]
        if self._group is not None:
            packed = torch.cat([part.flatten() for part in parts])
            distributed.all_reduce(packed, group=self._group)
            pieces = packed.split([part.numel() for part in parts])
            parts = [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]
        return parts[: len(first)], parts[len(first) :]


def _make_rows(matrix: nn.Parameter) -> torch.Tensor:
    """Return a zero for each row [rows], sharded as the matrix is."""
    if not isinstance(matrix, DTensor):
        return torch.zeros(matrix.shape[0], device=matrix.device)
    own = matrix.to_local()
    return DTensor.from_local(
        torch.zeros(own.shape[0], device=own.device),
        matrix.device_mesh,
        matrix.placements,
        run_check=False,
        shape=torch.Size(matrix.shape[:1]),
        stride=(1,),
    )
