"""Where in its context, and on which documents, a causal model predicts badly.

Below: `dataset`, `parallel`. Above: `measure` adds up the losses, `reporting` tells them.

Losses are whole numbers of `LOSS_UNIT`, so that sums are the same however they are divided among
ranks. Slices are all documents of one source, of one language, or of a quarter of the lengths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmtrain_trainer.dataset.loading import NO_DOCUMENT, Split
from llmtrain_trainer.parallel import Ranks

LOSS_UNIT = 2.0**-24
"""Nats. Single losses, in fp32, are no more exact; 10^10 tokens of 10 nats fit in 64 bits."""

NUM_LENGTHS = 4
MAX_DECODED = 2000
"""Documents of a slice whose bytes are counted, evenly over it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionLoss:
    """The loss of targets at places of a sequence."""

    first: int
    last: int
    """Tokens that the model has read when it predicts them, from 1 on."""

    targets: int
    loss: float
    """Nats for each target."""

    def dump(self) -> dict[str, Any]:
        """Return JSON-ready camelCase data."""
        return {
            "first": self.first,
            "last": self.last,
            "targets": self.targets,
            "loss": self.loss,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceLoss:
    """The loss on documents that have something in common."""

    kind: str
    """source, language or length."""

    name: str
    """The URI of the source, the language, or from how many to how many tokens."""

    documents: int
    targets: int
    loss: float
    """Nats for each target."""

    perplexity: float
    bits_per_byte: float | None
    """None where not every token is a target."""

    def dump(self) -> dict[str, Any]:
        """Return JSON-ready camelCase data."""
        return {
            "kind": self.kind,
            "name": self.name,
            "documents": self.documents,
            "targets": self.targets,
            "loss": self.loss,
            "perplexity": self.perplexity,
            "bitsPerByte": self.bits_per_byte,
        }


class Tally:
    """Sums of losses by the place of the target, and by its document."""

    def __init__(self, split: Split, sequence_length: int, ranks: Ranks) -> None:
        """Begin with nothing; the sequences are those of a split."""
        self._split = split
        self._sequence_length = sequence_length
        self._ranks = ranks
        self._places = torch.zeros(2, sequence_length, dtype=torch.int64, device=ranks.device)
        self._documents = torch.zeros(
            2, split.num_documents, dtype=torch.int64, device=ranks.device
        )

    def add(
        self, units: torch.Tensor, is_target: torch.Tensor, sequences: NDArray[np.int64]
    ) -> None:
        """Add the losses of a batch.

        Args:
            units: the loss of each target in `LOSS_UNIT`, int64 [n, t]; 0 where there is none.
            is_target: bool [n, t].
            sequences: which of the split they are [n].
        """
        self._places += torch.stack([units.sum(dim=0), is_target.sum(dim=0)])
        documents = self._split.read_provenance(sequences, self._sequence_length).documents[:, 1:]
        owners = torch.from_numpy(documents).to(units.device)
        chosen = is_target & (owners != NO_DOCUMENT)
        self._documents[0].index_add_(0, owners[chosen], units[chosen])
        self._documents[1].index_add_(0, owners[chosen], torch.ones_like(units[chosen]))

    def sum_up(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the sums of all ranks: units and targets, by place [2, t], by document [2, n]."""
        places, documents = self._ranks.sum(self._places), self._ranks.sum(self._documents)
        return places.cpu().numpy(), documents.cpu().numpy()


def describe_places(sums: NDArray[np.int64]) -> list[PositionLoss]:
    """Return the loss by how much was read, each range twice as wide as the one before.

    Args:
        sums: units and targets by place [2, t].
    """
    losses = []
    first = 1
    while first <= sums.shape[1]:
        last = min(2 * first - 1, sums.shape[1])
        units, targets = (int(total) for total in sums[:, first - 1 : last].sum(axis=1))
        if targets:
            loss = units * LOSS_UNIT / targets
            losses.append(PositionLoss(first=first, last=last, targets=targets, loss=loss))
        first = last + 1
    return losses


def describe_slices(
    sums: NDArray[np.int64],
    split: Split,
    sources: Sequence[str],
    count_bytes: Callable[[Sequence[NDArray[np.int64]]], int] | None,
) -> list[SliceLoss]:
    """Return the loss on each slice of the documents, the worst of each kind first.

    Args:
        sums: units and targets by document [2, n].
        split: whose documents they are.
        sources: URI of each source of the recipe.
        count_bytes: of UTF-8 in documents, given by their tokens; None: not every token is a
            target, so that bits of a byte mean nothing.
    """
    slices = []
    for kind, name, inside in _list_slices(split, sources):
        units, targets = (int(total) for total in sums[:, inside].sum(axis=1))
        if not targets:
            continue
        loss = units * LOSS_UNIT / targets
        bits = None
        if count_bytes is not None:
            indices = np.flatnonzero(inside)
            chosen = indices[:: math.ceil(len(indices) / MAX_DECODED)]
            texts = [split.read_document(int(index)) for index in chosen]
            # The end of a document is predicted, too.
            tokens, read = sum(len(text) + 1 for text in texts), count_bytes(texts)
            bits = loss / math.log(2.0) * tokens / read if read else None
        slices.append(
            SliceLoss(
                kind=kind,
                name=name,
                documents=int(inside.sum()),
                targets=targets,
                loss=loss,
                perplexity=math.exp(loss),
                bits_per_byte=bits,
            )
        )
    kinds = list(dict.fromkeys(item.kind for item in slices))
    return sorted(slices, key=lambda item: (kinds.index(item.kind), -item.loss))


def _list_slices(
    split: Split, sources: Sequence[str]
) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """Yield kind, name and documents of each slice; what all documents have in common is none."""
    facts = split.read_facts()
    origins = np.array([item.source for item in facts])
    languages = np.array([item.language for item in facts])
    lengths = split.document_lengths
    edges = np.unique(np.quantile(lengths, np.linspace(0.0, 1.0, NUM_LENGTHS + 1)[1:-1]))
    quarters = np.searchsorted(edges, lengths, side="left")
    found = [
        *(("source", sources[origin], origins == origin) for origin in np.unique(origins)),
        *(("language", str(name), languages == name) for name in np.unique(languages) if name),
    ]
    for quarter in np.unique(quarters):
        inside = quarters == quarter
        name = f"{lengths[inside].min():,} to {lengths[inside].max():,} tokens"
        found.append(("length", name, inside))
    yield from (item for item in found if not item[2].all())
