"""Losses of a batch in training and evaluations, without having all of its logits where it matters.

Below: `network` for networks whose logits must be had, `output_layer` and `chunked_loss` for the
others. Above: `training.step`, `evaluation.measure`.

Logits are left out where they would take more than a given memory, and wherever only some places
have a target, as of hidden tokens: the output layer is a third of the arithmetic of a small model.
"""

from __future__ import annotations

import torch
from torch import nn

from llmtrain_trainer.model.chunked_loss import judge_targets, sum_losses
from llmtrain_trainer.model.network import (
    call_model,
    compute_logits,
    compute_losses,
    compute_token_losses,
)
from llmtrain_trainer.model.output_layer import OutputLayer, find_output_layer
from llmtrain_trainer.objective.batch import NOT_A_TARGET, Batch
from llmtrain_trainer.parallel import find_plain_model

FP32_BYTES = 4


def compute_loss_sum(
    model: nn.Module,
    batch: Batch,
    *,
    logits_bytes: int,
    places: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Return the sum of the losses of a batch's targets, in nats, float32 [].

    Args:
        model: maps the batch's inputs to logits [n, t, vocabulary].
        batch: inputs and targets.
        logits_bytes: most memory of logits, where the network allows less than all; see
            `output_layer`.
        places: which of the n × t places have a target, int64 [k], where not all have one. Only
            for those there are logits.
        label_smoothing: share of a target's probability that is spread over the vocabulary.
    """
    layer = _find_replaceable(model, batch, logits_bytes, is_partial=places is not None)
    if layer is None:
        return compute_token_losses(model, batch, label_smoothing).sum()

    def compute(
        states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        states, targets = states.flatten(0, 1), batch.targets.flatten()
        if places is not None:
            states, targets = states[places], targets[places]
        return sum_losses(
            states,
            weight,
            bias,
            targets,
            chunk_rows=count_chunk_rows(logits_bytes, len(weight)),
            label_smoothing=label_smoothing,
        )

    with layer.replaced(compute):
        return call_model(model, batch)


@torch.no_grad()
def judge_batch(
    model: nn.Module, batch: Batch, *, logits_bytes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of each target of a batch, and what the model holds for the most probable.

    Where there is no target, the loss is 0.

    Args:
        model: maps the batch's inputs to logits [n, t, vocabulary].
        batch: inputs and targets.
        logits_bytes: as of `compute_loss_sum`.

    Returns:
        float32 [n, t], in nats; int64 [n, t].
    """
    layer = _find_replaceable(model, batch, logits_bytes, is_partial=False)
    if layer is None:
        logits = compute_logits(model, batch)
        return compute_losses(logits, batch), logits.argmax(dim=2)
    losses = torch.zeros_like(batch.targets, dtype=torch.float32)
    best = torch.full_like(batch.targets, NOT_A_TARGET)

    def compute(
        states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        chosen = batch.locate_targets()
        losses.view(-1)[chosen], best.view(-1)[chosen] = judge_targets(
            states.flatten(0, 1)[chosen],
            weight,
            bias,
            batch.targets.flatten()[chosen],
            chunk_rows=count_chunk_rows(logits_bytes, len(weight)),
        )
        return losses

    with layer.replaced(compute):
        call_model(model, batch)
    return losses, best


def count_chunk_rows(logits_bytes: int, vocabulary_size: int) -> int:
    """Return how many targets have logits at a time, in fp32."""
    return max(1, logits_bytes // (FP32_BYTES * vocabulary_size))


def _find_replaceable(
    model: nn.Module, batch: Batch, logits_bytes: int, *, is_partial: bool
) -> OutputLayer | None:
    """Return the output layer, if the batch has more logits than `logits_bytes`, or needs few."""
    layer = find_output_layer(find_plain_model(model))
    if layer is None or batch.weights is not None:
        return None
    whole = FP32_BYTES * batch.targets.numel() * len(layer.weight)
    return layer if is_partial or whole > logits_bytes else None
