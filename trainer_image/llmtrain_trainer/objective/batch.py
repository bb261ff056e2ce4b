"""A batch: what the model reads, and what it is to predict.

Below: numpy, torch, `dataset`. Above: the objectives make batches, `model` computes their losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from llmtrain_trainer.dataset.loading import Provenance, Split

NOT_A_TARGET = -100
"""Stands in targets where nothing is to be predicted; the number that torch ignores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What the model reads, and what it is to predict."""

    inputs: Mapping[str, Any]
    """Arguments of the model's forward pass; token ids are int64 [n, t]."""

    targets: torch.Tensor
    """Token ids, int64 [n, t], or `NOT_A_TARGET`."""

    multi_label: bool = False
    """Targets say of each class whether it is one of a document's, 0 or 1 [n, classes]; each of
    them is a decision by itself."""

    weights: torch.Tensor | None = None
    """How much the loss of each target counts, float32 [n, t]. None: all alike."""

    documents: torch.Tensor | None = None
    """The number of each input token's document, int64 [n, t]: a token sees those of its own only.
    None: all of its sequence."""

    rows: torch.Tensor | None = None
    """Of which sequence each row is a part, int64 [n], where sequences were divided. None: each row
    is one."""

    sees_ahead: bool = False
    """With `documents`: whether a token sees those behind it, too."""

    def move(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        inputs = {
            name: _move(value, device) if isinstance(value, torch.Tensor) else value
            for name, value in self.inputs.items()
        }
        return replace(
            self,
            inputs=inputs,
            targets=_move(self.targets, device),
            weights=None if self.weights is None else _move(self.weights, device),
            documents=None if self.documents is None else _move(self.documents, device),
            rows=None if self.rows is None else _move(self.rows, device),
        )

    def locate_targets(self) -> torch.Tensor:
        """Return which of the n × t places have a target, int64 [k]."""
        return (self.targets.flatten() != NOT_A_TARGET).nonzero().squeeze(1)

    def count_tokens(self) -> int:
        """Return the tokens that are read, and written where a decoder does; padding is none."""
        read = self.inputs.get("attention_mask")
        count = self.inputs["input_ids"].numel() if read is None else int(read.sum())
        has_decoder = "decoder_input_ids" in self.inputs
        return count + (int(self.count_targets().sum()) if has_decoder else 0)

    def count_targets(self) -> torch.Tensor:
        """Return the number of targets of each sequence [n]."""
        return (self.targets != NOT_A_TARGET).sum(dim=1)


def _move(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device; a GPU copies it from pinned memory, and nobody waits."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Objective(Protocol):
    """Makes batches of sequences."""

    reads_documents: ClassVar[bool] = False
    """Whether its sequences are documents, and not parts of a stream of them."""

    cuts_documents: ClassVar[bool] = True
    """Whether those are cut to the length of a sequence, and not by the objective itself."""

    @property
    def fixed_targets(self) -> int | None:
        """Targets of a sequence, where all have equally many, else None."""

    @property
    def needs_provenance(self) -> bool:
        """Whether it must be told where tokens come from."""

    def make_batch(
        self,
        sequences: NDArray[np.int64],
        numbers: NDArray[np.int64],
        *,
        is_training: bool,
        provenance: Provenance | None = None,
    ) -> Batch:
        """Make a batch on the CPU.

        Args:
            sequences: token ids [n, sequence_length + 1]; the last one of each is the first of the
                sequence that follows.
            numbers: in training, how many samples of the run came before each [n]; else which
                sequence of its split each is.
            is_training: what is drawn for evaluations is never drawn for training.
            provenance: where the tokens come from, if needed.
        """


class NextToken(Objective):
    """Predicts every token from those before it."""

    def __init__(self, sequence_length: int) -> None:
        """Predict `sequence_length` tokens of each sequence."""
        self._sequence_length = sequence_length

    @property
    def fixed_targets(self) -> int | None:
        """All tokens but the first are targets."""
        return self._sequence_length

    @property
    def needs_provenance(self) -> bool:
        """All tokens are alike."""
        return False

    def make_batch(
        self,
        sequences: NDArray[np.int64],
        numbers: NDArray[np.int64],
        *,
        is_training: bool,
        provenance: Provenance | None = None,
    ) -> Batch:
        """Make a batch; nothing is drawn."""
        del numbers, is_training, provenance
        return predict_next(torch.from_numpy(sequences))


def predict_next(sequences: torch.Tensor) -> Batch:
    """Make a batch of sequences [n, t + 1], of which each gives t inputs and t targets."""
    inputs = {"input_ids": sequences[:, :-1], "use_cache": False}
    return Batch(inputs=inputs, targets=sequences[:, 1:])


def count_samples(objective: Objective, split: Split, sequence_length: int) -> int:
    """Return how many sequences an objective finds in a split."""
    if objective.reads_documents:
        return split.num_documents
    return split.num_sequences(sequence_length)


def read_batch(
    objective: Objective,
    split: Split,
    indices: NDArray[np.int64],
    numbers: NDArray[np.int64],
    *,
    sequence_length: int,
    is_training: bool,
) -> Batch:
    """Make a batch of the sequences at `indices` of a split; see `Objective.make_batch`."""
    provenance = None
    if objective.reads_documents:
        limit = sequence_length - 1 if objective.cuts_documents else None
        sequences, provenance = split.read_documents(indices, limit)
    else:
        sequences = split.read_sequences(indices, sequence_length)
    if objective.needs_provenance and provenance is None:
        provenance = split.read_provenance(indices, sequence_length)
    return objective.make_batch(sequences, numbers, is_training=is_training, provenance=provenance)
