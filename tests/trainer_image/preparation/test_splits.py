"""A document's side and its copies follow from the document alone."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from llmtrain_api.data import Split, SplitMethod
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.splits import (
    Part,
    choose_held_out,
    count_copies,
    divide_into_batches,
    split_documents,
)

BY_DOCUMENT = Split(method=SplitMethod.DOCUMENT, validation_fraction=0.2)
DOCUMENTS = [Document(f"text {i}", f"file:{i}", i % 2) for i in range(2000)]


def test_sides_do_not_depend_on_order_or_on_the_others() -> None:
    whole = {p.text: p for p in split_documents(DOCUMENTS, BY_DOCUMENT, [1.0, 2.0])}
    shuffled = random.Random(0).sample(DOCUMENTS, len(DOCUMENTS))
    part = {p.text: p for p in split_documents(shuffled[:700], BY_DOCUMENT, [1.0, 2.0])}
    assert {t: (p.part, p.copies) for t, p in part.items()} == {
        text: (whole[text].part, whole[text].copies) for text in part
    }
    held_out = [piece for piece in whole.values() if piece.part is Part.VALIDATION]
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
    batches = divide_into_batches(pieces, 4_000_000)
    assert [len(batch) for batch in batches] == [2, 2, 1]


def hold_out(documents: list[Document], split: Split) -> list[bool]:
    held_out = choose_held_out(documents, split)
    pieces = list(split_documents(documents, split, [1.0, 1.0], held_out))
    assert [piece.text for piece in pieces] == [document.text for document in documents]
    return [piece.part is Part.VALIDATION for piece in pieces]


def test_groups_stay_together() -> None:
    split = Split(method=SplitMethod.GROUP, validation_fraction=0.3)
    documents = [Document(f"text {i}", f"file:{i}", 0, key=f"author {i % 97}") for i in range(970)]
    sides = hold_out(documents, split)
    by_group = {key: {sides[i] for i in range(key, 970, 97)} for key in range(97)}
    assert {len(found) for found in by_group.values()} == {1}
    assert 0.1 < sum(sides) / len(sides) < 0.5


def test_every_label_has_the_same_share() -> None:
    split = Split(method=SplitMethod.STRATIFIED, validation_fraction=0.2)
    labels = ["common"] * 500 + ["rare"] * 10 + ["pair"] * 2 + ["single"]
    documents = [Document(f"text {i}", f"file:{i}", 0, key=key) for i, key in enumerate(labels)]
    random.Random(1).shuffle(documents)
    sides = hold_out(documents, split)
    counts = {
        label: sum(side for side, d in zip(sides, documents, strict=True) if d.key == label)
        for label in set(labels)
    }
    assert counts == {"common": 100, "rare": 2, "pair": 1, "single": 0}


@pytest.mark.parametrize(
    "write", [str, lambda day: f"2026-01-{day:02d}", lambda day: f"2026-01-{day:02d}T08:00:00Z"]
)
def test_the_newest_are_held_out(write: Callable[[int], str]) -> None:
    split = Split(method=SplitMethod.TIME, validation_fraction=0.25)
    days = random.Random(2).sample(range(1, 29), 28)
    documents = [Document(f"text {day}", f"file:{day}", 0, key=write(day)) for day in days]
    sides = hold_out(documents, split)
    assert sorted(day for day, side in zip(days, sides, strict=True) if side) == [*range(22, 29)]


def test_what_is_no_time_is_named() -> None:
    split = Split(method=SplitMethod.TIME)
    with pytest.raises(DataError, match=r"^file:7: the field to split by is no time$"):
        choose_held_out([Document("text", "file:7", 0, key="yesterday")], split)


def divide(documents: list[Document], split: Split) -> list[Part]:
    """Return the part of each document."""
    held_out = choose_held_out(documents, split)
    return [piece.part for piece in split_documents(documents, split, [1.0, 1.0], held_out)]


@pytest.mark.parametrize("method", [SplitMethod.DOCUMENT, SplitMethod.GROUP])
def test_test_part_moves_nothing_between_the_others(method: SplitMethod) -> None:
    documents = [Document(f"text {i}", f"file:{i}", 0, key=f"author {i}") for i in range(2000)]
    before = divide(documents, Split(method=method, validation_fraction=0.2))
    after = divide(documents, Split(method=method, validation_fraction=0.2, test_fraction=0.3))
    assert {(a, b) for a, b in zip(before, after, strict=True) if a is not b} == {
        (Part.TRAIN, Part.TEST)
    }
    assert after.count(Part.TEST) / len(documents) == pytest.approx(0.3, abs=0.03)


def test_every_label_is_in_every_part_that_it_suffices_for() -> None:
    split = Split(method=SplitMethod.STRATIFIED, validation_fraction=0.2, test_fraction=0.1)
    counts = {"common": 500, "rare": 10, "triple": 3, "pair": 2, "single": 1}
    labels = [label for label, count in counts.items() for _ in range(count)]
    documents = [Document(f"text {i}", f"file:{i}", 0, key=key) for i, key in enumerate(labels)]
    parts = divide(documents, split)
    found = {
        label: [parts[i : i + count].count(part) for part in Part]
        for (label, count), i in zip(
            counts.items(), (labels.index(label) for label in counts), strict=True
        )
    }
    assert found == {
        "common": [350, 100, 50],
        "rare": [7, 2, 1],
        "triple": [1, 1, 1],
        "pair": [1, 1, 0],
        "single": [1, 0, 0],
    }


def test_the_test_part_is_newer_than_validation() -> None:
    split = Split(method=SplitMethod.TIME, validation_fraction=0.25, test_fraction=0.25)
    days = random.Random(3).sample(range(28), 28)
    documents = [Document(f"text {day}", f"file:{day}", 0, key=str(day)) for day in days]
    parts = dict(zip(days, divide(documents, split), strict=True))
    assert [parts[day] for day in range(28)] == (
        [Part.TRAIN] * 14 + [Part.VALIDATION] * 7 + [Part.TEST] * 7
    )


def test_ends_of_a_text_are_validation_and_then_test() -> None:
    split = Split(method=SplitMethod.TAIL, validation_fraction=0.2, test_fraction=0.1)
    pieces = split_documents([Document("0123456789", "file", 0)], split, [1.0])
    assert [(piece.part, piece.text) for piece in pieces] == [
        (Part.TRAIN, "0123456"),
        (Part.VALIDATION, "78"),
        (Part.TEST, "9"),
    ]
