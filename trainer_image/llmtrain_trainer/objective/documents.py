"""Documents that share a sequence and do not see each other, and turns that are learned.

Below: `batch`, the roles of `marks`. Above: `choosing`, and `masking` for rows of packed documents.

Rows are packed from documents, so attention is kept within each, and its positions count from its
first token (Krell et al. 2021, Efficient Sequence Packing without Cross-contamination,
arXiv:2107.02027): the model computes of a document what it would compute of it alone.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from numpy.typing import NDArray

from llmtrain_api.objective import LossOn
from llmtrain_trainer.dataset.loading import Provenance
from llmtrain_trainer.objective.batch import NOT_A_TARGET, Batch, Objective
from llmtrain_trainer.tokenizer.marks import Role

LEARNED: dict[LossOn, Collection[Role]] = {
    LossOn.ASSISTANT: frozenset({Role.ASSISTANT, Role.TEXT}),
    LossOn.ALL: frozenset(Role) - {Role.PADDING},
}
"""Roles of tokens that are targets. A document that is no conversation is learned either way."""


class NextInDocument(Objective):
    """Predicts tokens from those before them in the same document."""

    def __init__(self, loss_on: LossOn, *, isolates: bool) -> None:
        """Predict what `loss_on` says.

        Args:
            loss_on: whose words are targets.
            isolates: whether the network can keep documents from seeing each other.
        """
        self._learned = sorted(LEARNED[loss_on])
        self._isolates = isolates

    @property
    def fixed_targets(self) -> int | None:
        """Turns are of any length."""
        return None

    @property
    def needs_provenance(self) -> bool:
        """Documents and roles decide."""
        return True

    def make_batch(
        self,
        sequences: NDArray[np.int64],
        numbers: NDArray[np.int64],
        *,
        is_training: bool,
        provenance: Provenance | None = None,
    ) -> Batch:
        """Make a batch; nothing is drawn. No document predicts the next one's first token."""
        del numbers, is_training
        assert provenance is not None
        roles, documents = provenance.roles, provenance.documents
        is_target = np.isin(roles[:, 1:], self._learned) & (documents[:, 1:] == documents[:, :-1])
        targets = np.where(is_target, sequences[:, 1:], NOT_A_TARGET)
        inputs = {"input_ids": torch.from_numpy(sequences[:, :-1]), "use_cache": False}
        if not self._isolates:
            return Batch(inputs=inputs, targets=torch.from_numpy(targets))
        own = np.ascontiguousarray(documents[:, :-1])
        return Batch(
            inputs={**inputs, "position_ids": torch.from_numpy(count_positions(own))},
            targets=torch.from_numpy(targets),
            documents=torch.from_numpy(own),
        )


def count_positions(documents: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each token in the part of its document that its row has [n, t]."""
    places = np.broadcast_to(np.arange(documents.shape[1]), documents.shape)
    is_first = np.ones(documents.shape, dtype=np.bool_)
    is_first[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return places - np.maximum.accumulate(np.where(is_first, places, 0), axis=1)
