"""Documents and the class that each belongs to, or the classes.

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
    is_multi_label: ClassVar[bool] = False

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
        self._classes = tuple(classes)
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
        targets = self._find_targets(provenance)
        weights = self._weigh(targets) if is_training else None
        return Batch(
            inputs={
                "input_ids": torch.from_numpy(ids),
                "attention_mask": torch.from_numpy(is_read.astype(np.int64)),
            },
            targets=torch.from_numpy(targets),
            multi_label=self.is_multi_label,
            weights=None if weights is None else torch.from_numpy(weights),
        )

    def _find_targets(self, provenance: Provenance) -> NDArray[np.int64]:
        """Return the number of the class of each document [n, 1]."""
        return np.array([[self._numbers[label]] for label in provenance.labels])

    def _weigh(self, targets: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Return how much each target counts, in its shape."""
        return None if self._weights is None else self._weights[targets]


class LabelsOfDocument(LabelOfDocument):
    """Predicts of each class whether it is one of a document's: any number of them may be.

    The loss is binary cross-entropy of each decision (Tsoumakas and Katakis 2007, Multi-Label
    Classification: An Overview: binary relevance, by one network), as `transformers` has it for
    `problem_type: multi_label_classification`.
    """

    is_multi_label: ClassVar[bool] = True

    @property
    def fixed_targets(self) -> int | None:
        """A document is decided of for every class."""
        return len(self._classes)

    def _find_targets(self, provenance: Provenance) -> NDArray[np.int64]:
        """Return for each document and class 1 or 0 [n, classes]."""
        return mark_labels(provenance.label_sets, self._classes)

    def _weigh(self, targets: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Return how much each decision counts; `weights` are of yes and of no [2, classes]."""
        if self._weights is None:
            return None
        of_yes, of_no = self._weights[0], self._weights[1]
        counted: NDArray[np.float32] = np.where(targets == 1, of_yes, of_no)
        return counted


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


def weigh_decisions(
    label_sets: Sequence[Sequence[str]], classes: Sequence[str], kind: ClassWeights
) -> NDArray[np.float32] | None:
    """Return how much it counts that a document has a class, and has it not [2, classes].

    Each decision is a question of two classes, whose balanced weights these are.
    """
    if kind is ClassWeights.NONE:
        return None
    has_it = mark_labels(label_sets, classes).sum(axis=0)
    counts = np.stack([has_it, len(label_sets) - has_it])
    weights: NDArray[np.float32] = len(label_sets) / (2.0 * np.maximum(counts, 1))
    return weights.astype(np.float32)


def mark_labels(label_sets: Sequence[Sequence[str]], classes: Sequence[str]) -> NDArray[np.int64]:
    """Return 1 where a document has one of the `classes`, else 0 [documents, classes]."""
    numbers = {label: number for number, label in enumerate(classes)}
    marks = np.zeros((len(label_sets), len(classes)), dtype=np.int64)
    for row, labels in zip(marks, label_sets, strict=True):
        row[[numbers[label] for label in labels]] = 1
    return marks
