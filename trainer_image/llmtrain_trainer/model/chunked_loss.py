"""Cross-entropy straight from the states before the output layer, without ever having all logits.

Below: torch alone. Above: `output_layer` puts it in the place of a network's logits.

The logits of a pass are targets × vocabulary numbers, in most language models the largest tensor
of a step, and the loss wants three of its kind. Here a chunk of targets at a time goes through the
output layer, its gradients are computed at once, and its logits are dropped: the fused linear
cross-entropy of Liger-Kernel (Hsu et al. 2024, arXiv:2410.10989, section 3.2), in plain torch. It
takes the same three products as the plain loss; recomputing logits in the backward pass (Wijmans
et al. 2024, Cut Your Losses, arXiv:2411.09009) would take a fourth.

torch's own `linear_cross_entropy` has no label smoothing, gives bfloat16 losses for bfloat16
states, and computes in fp32 on CPUs that multiply bfloat16.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable


def sum_losses(
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    *,
    chunk_rows: int,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Return the sum of the losses of `targets`, in nats, float32 [].

    Args:
        states: what the output layer reads [k, width].
        weight: of the output layer [vocabulary, width].
        bias: of the output layer [vocabulary].
        targets: a token for each state, int64 [k].
        chunk_rows: states that have logits at a time.
        label_smoothing: share of a target's probability that is spread over the vocabulary.
    """
    total: torch.Tensor = _SumOfLosses.apply(
        states, weight, bias, targets, chunk_rows, label_smoothing, find_product_type(weight)
    )
    return total


def judge_targets(
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    *,
    chunk_rows: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of each target, float32 [k], and the most probable token there, int64 [k].

    Of this there are no gradients; the arguments are those of `sum_losses`.
    """
    losses = torch.empty(len(targets), dtype=torch.float32, device=states.device)
    best = torch.empty_like(targets)
    product_type = find_product_type(weight)
    with torch.no_grad(), torch.autocast(states.device.type, enabled=False):
        matrix = weight.to(product_type)
        for start in range(0, len(targets), chunk_rows):
            part = slice(start, start + chunk_rows)
            logits = _compute_logits(states[part].to(product_type), matrix, bias)
            best[part] = logits.argmax(dim=1)
            log_probabilities = torch.log_softmax(logits, dim=1, dtype=torch.float32)
            losses[part] = -log_probabilities.gather(1, targets[part, None]).squeeze(1)
    return losses, best


def find_product_type(weight: torch.Tensor) -> torch.dtype:
    """Return the type of a product with `weight`: that of autocast, where it is on."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


class _SumOfLosses(torch.autograd.Function):
    """Computes the gradients with the losses; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        chunk_rows: int,
        label_smoothing: float,
        product_type: torch.dtype,
    ) -> torch.Tensor:
        """See `sum_losses`."""
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        of_states, of_weight, of_bias = (
            None if tensor is None or not needed else torch.zeros_like(tensor, dtype=dtype)
            for tensor, needed, dtype in zip(
                (states, weight, bias),
                ctx.needs_input_grad,
                # Sums over chunks are kept in fp32.
                (states.dtype, torch.float32, torch.float32),
                strict=False,
            )
        )
        confidence, spread = 1.0 - label_smoothing, label_smoothing / len(weight)
        with torch.autocast(states.device.type, enabled=False):
            matrix = weight.to(product_type)
            for start in range(0, len(targets), chunk_rows):
                part = slice(start, start + chunk_rows)
                read, right = states[part].to(product_type), targets[part, None]
                logits = _compute_logits(read, matrix, bias)
                log_probabilities = torch.log_softmax(logits, dim=1, dtype=torch.float32)
                del logits
                total -= confidence * log_probabilities.gather(1, right).sum()
                if spread:
                    total -= spread * log_probabilities.sum()
                # d loss / d logits: what is predicted less what should have been.
                gradient = log_probabilities.exp_()
                if spread:
                    gradient -= spread
                gradient.scatter_add_(1, right, gradient.new_full(right.shape, -confidence))
                if of_bias is not None:
                    of_bias += gradient.sum(dim=0)
                gradient = gradient.to(product_type)
                if of_states is not None:
                    of_states[part] = gradient @ matrix
                if of_weight is not None:
                    _add_product(of_weight, gradient.T, read)
        ctx.save_for_backward(of_states, of_weight, of_bias)
        ctx.types = weight.dtype, None if bias is None else bias.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scale what the forward pass has computed, in place."""
        of_states, of_weight, of_bias = (
            None if tensor is None else tensor.mul_(gradient) for tensor in ctx.saved_tensors
        )
        weight_type, bias_type = ctx.types
        return (
            of_states,
            None if of_weight is None else of_weight.to(weight_type),
            None if of_bias is None else of_bias.to(bias_type),
            *(None,) * 4,
        )


def _compute_logits(
    states: torch.Tensor, matrix: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    return torch.nn.functional.linear(states, matrix, None if bias is None else bias.to(matrix))


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add a product to an fp32 `total`, without a tensor for it where types allow that."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
