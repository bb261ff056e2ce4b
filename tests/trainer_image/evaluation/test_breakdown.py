"""Losses by place and by document: sums of what was measured, by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from llmtrain_trainer.dataset.facts import Facts
from llmtrain_trainer.dataset.loading import Provenance
from llmtrain_trainer.evaluation.breakdown import (
    LOSS_UNIT,
    Tally,
    describe_places,
    describe_slices,
)
from llmtrain_trainer.parallel import Ranks
from llmtrain_trainer.rank_group import RankGroup

ALONE = Ranks(group=RankGroup(), device=torch.device("cpu"), store=None)


class ThreeDocuments:
    """A split of three documents of 3, 3 and 7 tokens, ends included."""

    num_documents = 3
    _owners = np.repeat([0, 1, 2], [3, 3, 7])

    def read_provenance(self, indices: Sequence[int], length: int) -> Provenance:
        rows = [self._owners[i * length : (i + 1) * length + 1] for i in indices]
        return Provenance(
            roles=np.zeros((len(rows), length + 1), np.uint8), documents=np.array(rows)
        )

    def read_facts(self) -> list[Facts]:
        return [Facts(source=0), Facts(source=1), Facts(source=1, language="de")]

    document_lengths = np.bincount(_owners)

    def read_document(self, index: int) -> Any:
        return np.full(int(self.document_lengths[index]) - 1, index)


def test_losses_are_told_by_place_and_by_slice() -> None:
    split: Any = ThreeDocuments()
    tally = Tally(split, 4, ALONE)
    losses = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0], [9.0, 10.0, 11.0, 0.0]])
    is_target = torch.ones(3, 4, dtype=torch.bool)
    is_target[2, 3] = False
    units = (losses.double() / LOSS_UNIT).round().long()
    for rows in ([2], [0, 1]):  # in any order
        tally.add(units[rows], is_target[rows], np.array(rows))
    places, documents = tally.sum_up()

    told = [(item.first, item.last, item.targets, item.loss) for item in describe_places(places)]
    assert told == [(1, 1, 3, 5.0), (2, 3, 6, 6.5), (4, 4, 2, 6.0)]
    # Targets are tokens 1 to 11: two of the first document, three and six of the others.
    assert documents[1].tolist() == [2, 3, 6]
    slices = describe_slices(documents, split, ["s3://a", "s3://b"], lambda texts: 10 * len(texts))
    worst, best = (item for item in slices if item.kind == "source")
    assert (worst.name, worst.documents, worst.targets) == ("s3://b", 2, 9)
    assert worst.loss == pytest.approx((3 + 4 + 5 + 6 + 7 + 8 + 9 + 10 + 11) / 9)
    assert best.loss == pytest.approx((1 + 2) / 2)
    assert best.perplexity == pytest.approx(math.exp(1.5))
    assert best.bits_per_byte == pytest.approx(1.5 / math.log(2) * 3 / 10)
    assert [item.name for item in slices if item.kind == "language"] == ["de"]
    assert [item.documents for item in slices if item.kind == "length"] == [1, 2]
    assert all(item.bits_per_byte is None for item in describe_slices(documents, split, "ab", None))
