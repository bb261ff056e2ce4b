"""Documents and the class that each belongs to.

Below: `batch`. Above: `choosing`.

A text is read between the token that begins texts and the end of text, cut to the length of a
sequence. BERT decides by the first token (Devlin et al. 2019), a decoder by the last one that is
not padding (Radford et al. 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from llmtrain_api.objective import ClassWeights
from llmtrain_trainer.dataset.loading import Provenance
from llmtrain_trainer.objective.batch import Batch, Objective
from llmtrain_trainer.tokenizer.marks import Role


class LabelOfDocument(Objective):
    """Predicts the class of a document."""

    reads_documents: ClassVar[bool] = True

    def __init__(
        self,
        classes: Sequence[str],
        *,
        start: int,
        padding: int,
        weights: NDArray[np.float32] | None = None,
    ) -> None:
        """Predict one of `classes`.

        Args:
            classes: labels, in the order of the model's outputs.
            start: the token before each text.
            padding: the token that fills rows.
            weights: how much each class counts in training [classes]; None: all alike.
        """
        self._numbers = {label: number for number, label in enumerate(classes)}
        self._start = start
        self._padding = padding
        self._weights = weights

    @property
    def fixed_targets(self) -> int | None:
        """A document has one class."""
        return 1

    @property
    def needs_provenance(self) -> bool:
        """Labels come with it."""
        return True

    def make_batch(
        self,
        sequences: NDArray[np.int64],
        numbers: NDArray[np.int64],
        *,
        is_training: bool,
        provenance: Provenance | None = None,
    ) -> Batch:
        """Make a batch of documents [n, t], each a row; nothing is drawn."""
        del numbers
        assert provenance is not None
        is_padding = provenance.roles == Role.PADDING
        texts = np.where(is_padding, self._padding, sequences)
        ids = np.concatenate([np.full((len(texts), 1), self._start), texts], axis=1)
        is_read = np.concatenate([np.ones((len(texts), 1), dtype=np.bool_), ~is_padding], axis=1)
        targets = np.array([[self._numbers[label]] for label in provenance.labels])
        weights = None
        if self._weights is not None and is_training:
            weights = torch.from_numpy(self._weights[targets])
        return Batch(
            inputs={
                "input_ids": torch.from_numpy(ids),
                "attention_mask": torch.from_numpy(is_read.astype(np.int64)),
            },
            targets=torch.from_numpy(targets),
            weights=weights,
        )


def weigh_classes(
    labels: Sequence[str], classes: Sequence[str], kind: ClassWeights
) -> NDArray[np.float32] | None:
    """Return how much each class counts [classes]; balanced ones have the mean 1 over `labels`.

    King and Zeng 2001, Logistic Regression in Rare Events Data.
    """
    if kind is ClassWeights.NONE:
        return None
    counts = count_classes(labels, classes)
    weights: NDArray[np.float32] = (len(labels) / (len(classes) * counts)).astype(np.float32)
    return weights


def count_classes(labels: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """Return how many of `labels` are each of the sorted `classes`."""
    return np.bincount(np.searchsorted(list(classes), list(labels)), minlength=len(classes))
