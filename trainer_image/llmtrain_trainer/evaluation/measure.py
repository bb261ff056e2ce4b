"""How well a model predicts held-out sequences.

Below: `model`, `objective`, `dataset`, `parallel`. Above: `train` measures a sample every few
steps, `evaluate` measures all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from llmtrain_trainer.dataset.loading import Split
from llmtrain_trainer.model.losses import judge_batch
from llmtrain_trainer.model.network import judge_labels
from llmtrain_trainer.objective.batch import NOT_A_TARGET, Objective, read_batch
from llmtrain_trainer.parallel import Ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What came out."""

    loss: float
    """Nats for each target."""

    accuracy: float
    """Share of the targets that the model holds for the most probable."""

    num_targets: int

    probabilities: NDArray[np.float64] | None
    """Of each class for each sequence, where documents are classified [sequences, classes]; of
    those that have any number of classes the sum is not 1."""


def choose_sequences(num_sequences: int, max_sequences: int) -> NDArray[np.int64]:
    """Return the indices of at most `max_sequences` sequences, evenly over all of them."""
    count = min(num_sequences, max_sequences)
    return np.arange(count, dtype=np.int64) * num_sequences // count


def measure(
    model: nn.Module,
    objective: Objective,
    split: Split,
    indices: NDArray[np.int64],
    ranks: Ranks,
    *,
    sequence_length: int,
    batch_size: int,
    logits_bytes: int,
    num_classes: int = 0,
) -> Measurement:
    """Measure a model on all targets of the sequences at `indices`.

    What an objective hides of a sequence is the same in every evaluation. Every rank must call it
    with the same arguments and gets the same answer. All ranks make equally many forward passes,
    because a sharded model is gathered in each of them: where the sequences run out, the first one
    is read again and does not count.

    Args:
        model: which is measured; it trains again behind if it did before.
        objective: makes batches.
        split: where the sequences are.
        indices: of the sequences.
        ranks: among which they are divided.
        sequence_length: tokens of each.
        batch_size: sequences that a rank reads at a time.
        logits_bytes: most memory of logits, where the network allows less than all.
        num_classes: where documents are classified, into how many; their probabilities are kept.
    """
    width = batch_size * ranks.group.world_size
    padded = np.concatenate([indices, np.full(-len(indices) % width, indices[0])])
    weights = (np.arange(len(padded)) < len(indices)).astype(np.float64)
    totals = torch.zeros(3, dtype=torch.float64, device=ranks.device)
    said = torch.zeros(len(padded), num_classes, dtype=torch.float64, device=ranks.device)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(ranks.group.rank * batch_size, len(padded), width):
            part = slice(start, start + batch_size)
            batch = read_batch(
                objective,
                split,
                padded[part],
                padded[part],
                sequence_length=sequence_length,
                is_training=False,
            ).move(ranks.device)
            if num_classes:
                losses, best, said[part] = judge_labels(model, batch)
            else:
                losses, best = judge_batch(model, batch, logits_bytes=logits_bytes)
            is_target = batch.targets != NOT_A_TARGET
            hits = ((best == batch.targets) & is_target).double().sum(dim=1)
            weight = torch.from_numpy(weights[part]).to(ranks.device)
            counts = is_target.double().sum(dim=1)
            loss_sums = losses.double().sum(dim=1)
            totals += torch.stack([loss_sums @ weight, hits @ weight, counts @ weight])
    model.train(was_training)
    loss_sum, hit_sum, count = ranks.sum(totals).tolist()
    return Measurement(
        loss=loss_sum / max(1.0, count),
        accuracy=hit_sum / max(1.0, count),
        num_targets=round(count),
        probabilities=ranks.sum(said)[: len(indices)].cpu().numpy() if num_classes else None,
    )
