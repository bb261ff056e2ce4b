"""Copies follow from seed and document, and touch nothing but training text."""

from __future__ import annotations

import random
from typing import Any

import pytest

from llmtrain_api.shaping import Augment
from llmtrain_trainer.dataset.facts import Facts
from llmtrain_trainer.preparation.augment import (
    augment_pieces,
    change_text,
    make_draws,
    move_middle,
)
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.splits import Part, Piece
from llmtrain_trainer.preparation.synonyms import SYNONYMS
from llmtrain_trainer.preparation.tally import Tally
from llmtrain_trainer.tokenizer.marks import (
    MIDDLE,
    PREFIX,
    SUFFIX,
    divide_text,
    show_text,
    write_conversation,
)

TEXT = "The quick answer: buy a large house, and begin to repair the road.\n\nThen rest."


def make_piece(text: str, *, part: Part = Part.TRAIN, name: str = "") -> Piece:
    return Piece(text=text, part=part, document=Document(text, "place", 0, facts=Facts(id=name)))


def augment(pieces: list[Piece], **fields: Any) -> tuple[list[Piece], Tally]:
    tally = Tally("augment")
    return list(augment_pieces(pieces, Augment(**fields), tally)), tally


def change(**fields: Any) -> str:
    return change_text(TEXT, Augment(**fields), make_draws(0, "document", 1))


def test_copies_are_the_same_each_time_and_differ_by_seed() -> None:
    pieces = [make_piece(f"{TEXT} {i}") for i in range(5)]
    first, tally = augment(pieces, synonym=0.5, typo=0.3, copies=3)
    again, _ = augment(pieces[::-1], synonym=0.5, typo=0.3, copies=3)
    other, _ = augment(pieces, synonym=0.5, typo=0.3, copies=3, seed=1)
    assert sorted(piece.text for piece in first) == sorted(piece.text for piece in again)
    assert {piece.text for piece in first} != {piece.text for piece in other}
    assert [piece.text for piece in first if piece.text in {p.text for p in pieces}] == [
        piece.text for piece in pieces
    ]
    assert (tally.documents_in, tally.documents_out) == (5, len(first))
    assert tally.counts["copy"] == len(first) - 5
    assert tally.characters_in == sum(len(piece.text) for piece in pieces)


def test_copies_follow_from_the_id_where_there_is_one() -> None:
    named, _ = augment([make_piece(TEXT, name="a")], case=0.5)
    same, _ = augment([make_piece(TEXT, name="a")], case=0.5)
    other, _ = augment([make_piece(TEXT, name="b")], case=0.5)
    assert named[1].text == same[1].text != other[1].text


def test_what_is_held_out_and_conversations_stay_as_they_are() -> None:
    pieces = [
        make_piece(TEXT, part=Part.VALIDATION),
        make_piece(TEXT, part=Part.TEST),
        make_piece(write_conversation([("user", TEXT), ("assistant", TEXT)])),
    ]
    changed, _ = augment(pieces, typo=0.5, fill_in_middle=1.0)
    assert changed == pieces


def test_words_are_deleted_with_their_space() -> None:
    words = change(delete=0.5).split(" ")
    assert 0 < len(words) < len(TEXT.split(" "))
    assert "" not in words


def test_words_change_places_only() -> None:
    changed = change(swap=0.5)
    assert changed != TEXT
    assert sorted(changed.split()) == sorted(TEXT.split())


def test_synonyms_keep_case_and_punctuation() -> None:
    text = "Quick, BIG house."
    found = {change_text(text, Augment(synonym=0.5), random.Random(seed)) for seed in range(40)}
    assert found >= {"Quick, LARGE house.", "Fast, BIG house.", "Quick, BIG home."}
    assert all(sentence.count(" ") == 2 and sentence.endswith(".") for sentence in found)


def test_lexicon_answers_both_ways() -> None:
    assert all(word in SYNONYMS[other] for word, others in SYNONYMS.items() for other in others)
    assert not [word for word, others in SYNONYMS.items() if not others or word in others]


def test_typos_leave_first_letters_and_short_words() -> None:
    for before, after in zip(TEXT.split(), change(typo=0.5).split(), strict=True):
        assert before[0] == after[0]
        assert abs(len(before) - len(after)) <= 1
        assert before == after or len(before) >= 4


def test_case_changes_nothing_else() -> None:
    assert change(case=0.5).lower() == TEXT.lower()


def test_template_frames_the_copy() -> None:
    changed, _ = augment([make_piece("text")], templates=["Review: {text} {x}"])
    assert [piece.text for piece in changed] == ["text", "Review: text {x}"]


@pytest.mark.parametrize("seed", range(20))
def test_middle_is_moved_and_nothing_lost(seed: int) -> None:
    moved = move_middle(TEXT, random.Random(seed))
    assert moved[0] == PREFIX
    prefix, _, rest = moved[1:].partition(SUFFIX)
    suffix, _, middle = rest.partition(MIDDLE)
    assert prefix + middle + suffix == TEXT
    assert sum(segment.is_special for segment in divide_text(moved)) == 3
    assert sorted(show_text(moved)) == sorted(TEXT)


def test_share_of_documents_has_its_middle_moved() -> None:
    pieces = [make_piece(f"{TEXT} {i}") for i in range(400)]
    moved, tally = augment(pieces, fill_in_middle=0.25)
    assert len(moved) == 400
    assert tally.counts["middle moved"] / 400 == pytest.approx(0.25, abs=0.07)


@pytest.mark.parametrize("text", ["", " ", "\n x", "a", "…!"])
def test_odd_texts_come_through(text: str) -> None:
    fields = {"swap": 0.5, "delete": 0.5, "synonym": 0.5, "typo": 0.5, "case": 0.5}
    changed, _ = augment([make_piece(text)], fill_in_middle=1.0, **fields)
    assert changed[0].text == text
