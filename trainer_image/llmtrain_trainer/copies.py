"""Copies of a model on several ranks, where DDP cannot be had: its parameters are DTensors.

Below: torch. Above: `parallel` wraps a model whose blocks are divided within groups of ranks
(`tensor_parallel`) and copied over these. As with DDP each gradient is averaged over the copies
while the backward pass is still making others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed, nn
from torch.autograd import Variable
from torch.distributed.tensor import DTensor


class Copies(nn.Module):
    """Wraps the copy of this rank. Every rank must do the same backward passes."""

    def __init__(self, module: nn.Module, group: distributed.ProcessGroup) -> None:
        """Average gradients of `module` over the ranks of `group`, which have the same weights."""
        super().__init__()
        self.module = module
        self._group = group
        self._averages = True
        self._works: list[distributed.Work] = []
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._begin_average)

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Call the module."""
        return self.module(*arguments, **named)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Return a block in which backward passes only accumulate."""
        self._averages = False
        try:
            yield
        finally:
            self._averages = True

    def _begin_average(self, parameter: torch.Tensor) -> None:
        if not self._averages:
            return
        if not self._works:
            # At the end of this backward pass, as DDP and FSDP do.
            Variable._execution_engine.queue_callback(self._finish_averages)
        gradient = parameter.grad
        assert gradient is not None
        own = gradient.to_local() if isinstance(gradient, DTensor) else gradient
        own /= self._group.size()  # gloo has sums only
        work = distributed.all_reduce(own, group=self._group, async_op=True)
        assert work is not None
        self._works.append(work)

    def _finish_averages(self) -> None:
        for work in self._works:
            work.wait()
        self._works.clear()
