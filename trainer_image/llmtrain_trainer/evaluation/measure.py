"""How well a model predicts held-out sequences.

Below: `model`, `objective`, `dataset`, `parallel`, `breakdown`. Above: `train` measures a sample
every few steps, `examining` measures all.

Losses are summed as whole numbers of `LOSS_UNIT`: such a sum is the same in whatever order and on
however many ranks, where one of fractions would differ in its last digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from llmtrain_trainer.dataset.loading import Split
from llmtrain_trainer.evaluation.breakdown import LOSS_UNIT, Tally
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
    tally: Tally | None = None,
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
        tally: is told of every loss.
    """
    width = batch_size * ranks.num_readers
    places = np.arange(len(indices))
    if (
        objective.reads_documents
    ):  # those of like lengths together, so that rows have little padding
        places = np.argsort(-split.document_lengths[indices], kind="stable")
    places = np.concatenate([places, np.full(-len(indices) % width, places[0])])
    counts = np.arange(len(places)) < len(indices)
    totals = torch.zeros(4, dtype=torch.int64, device=ranks.device)
    said = torch.zeros(len(indices), num_classes, dtype=torch.float64, device=ranks.device)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(ranks.reader * batch_size, len(places), width):
            part = slice(start, start + batch_size)
            chosen = indices[places[part]]
            batch = read_batch(
                objective,
                split,
                chosen,
                chosen,
                sequence_length=sequence_length,
                is_training=False,
            ).move(ranks.device)
            is_new = torch.from_numpy(counts[part]).to(ranks.device)
            if num_classes:
                losses, best, probabilities = judge_labels(model, batch)
                own = torch.from_numpy(places[part]).to(ranks.device)[is_new]
                said[own] = probabilities[is_new]
            else:
                losses, best = judge_batch(model, batch, logits_bytes=logits_bytes)
            counts_row = is_new if batch.rows is None else is_new[batch.rows]
            is_target = (batch.targets != NOT_A_TARGET) & counts_row[:, None]
            is_number = is_target & losses.isfinite()
            units = torch.where(is_number, losses.double() / LOSS_UNIT, 0.0).round().long()
            hits = (best == batch.targets) & is_target
            num_lost = is_target.sum() - is_number.sum()
            totals += torch.stack([units.sum(), hits.sum(), is_target.sum(), num_lost])
            if tally is not None:
                tally.add(units, is_target, chosen)
    model.train(was_training)
    if not ranks.is_counted:
        totals.zero_()
        said.zero_()
    units, num_right, count, num_lost = ranks.sum(totals).tolist()
    return Measurement(
        loss=math.nan if num_lost else units * LOSS_UNIT / max(1, count),
        accuracy=num_right / max(1, count),
        num_targets=count,
        probabilities=ranks.sum(said).cpu().numpy() if num_classes else None,
    )
