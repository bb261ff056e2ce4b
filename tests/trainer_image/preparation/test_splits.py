"""A document's side and its copies follow from the document alone."""

from __future__ import annotations

import random

import pytest

from llmtrain_api.data import Split, SplitMethod
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.splits import count_copies, divide_into_batches, split_documents

BY_DOCUMENT = Split(method=SplitMethod.DOCUMENT, validation_fraction=0.2)
DOCUMENTS = [Document(f"text {i}", f"file:{i}", i % 2) for i in range(2000)]


def test_sides_do_not_depend_on_order_or_on_the_others() -> None:
    whole = {p.text: p for p in split_documents(DOCUMENTS, BY_DOCUMENT, [1.0, 2.0])}
    shuffled = random.Random(0).sample(DOCUMENTS, len(DOCUMENTS))
    part = {p.text: p for p in split_documents(shuffled[:700], BY_DOCUMENT, [1.0, 2.0])}
    assert part == {text: whole[text] for text in part}
    held_out = [piece for piece in whole.values() if piece.is_validation]
    assert len(held_out) / len(DOCUMENTS) == pytest.approx(0.2, abs=0.03)
    assert {piece.copies for piece in held_out} == {1}


@pytest.mark.parametrize(
    ("weight", "share", "copies"),
    [(1.0, 0.999, 1), (0.5, 0.4, 0), (0.5, 0.6, 1), (2.5, 0.4, 2), (2.5, 0.6, 3), (3.0, 0.0, 3)],
)
def test_copies_are_the_weight_on_average(weight: float, share: float, copies: int) -> None:
    assert count_copies(weight, share) == copies
    mean = sum(count_copies(weight, i / 1000) for i in range(1000)) / 1000
    assert mean == pytest.approx(weight)


def test_batches_hold_every_piece_once() -> None:
    pieces = list(split_documents([Document("x" * 3_000_000, "f", 0)] * 5, BY_DOCUMENT, [1.0]))
    assert [len(batch) for batch in divide_into_batches(pieces)] == [2, 2, 1]
