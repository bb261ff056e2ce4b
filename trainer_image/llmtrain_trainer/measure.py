"""The loss of a model on held-out sequences.

Below: `model`, `data`, `parallel`. Above: `train` measures a sample every few steps,
`evaluate` measures all.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from llmtrain_trainer.data import Split
from llmtrain_trainer.model import compute_token_losses
from llmtrain_trainer.parallel import Ranks


def choose_sequences(num_sequences: int, max_sequences: int) -> NDArray[np.int64]:
    """Return the indices of at most `max_sequences` sequences, evenly over all of them."""
    count = min(num_sequences, max_sequences)
    return np.arange(count, dtype=np.int64) * num_sequences // count


def measure_loss(
    model: nn.Module,
    split: Split,
    indices: NDArray[np.int64],
    ranks: Ranks,
    *,
    sequence_length: int,
    batch_size: int,
) -> float:
    """Return the mean loss over all tokens of the sequences at `indices`, in nats.

    Every rank must call it with the same arguments and gets the same answer. All ranks make
    equally many forward passes, because a sharded model is gathered in each of them: where the
    sequences run out, the first one is read again and does not count.
    """
    width = batch_size * ranks.group.world_size
    padded = np.concatenate([indices, np.full(-len(indices) % width, indices[0])])
    weights = (np.arange(len(padded)) < len(indices)).astype(np.float64)
    totals = torch.zeros(2, dtype=torch.float64, device=ranks.device)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(ranks.group.rank * batch_size, len(padded), width):
            part = slice(start, start + batch_size)
            sequences = torch.from_numpy(split.read_sequences(padded[part], sequence_length))
            losses = compute_token_losses(model, sequences.to(ranks.device)).double().sum(dim=1)
            weight = torch.from_numpy(weights[part]).to(ranks.device)
            totals += torch.stack([losses @ weight, weight.sum() * sequence_length])
    model.train(was_training)
    loss_sum, count = ranks.sum(totals).tolist()
    return float(loss_sum / count)
