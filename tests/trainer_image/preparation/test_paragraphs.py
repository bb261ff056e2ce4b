"""The first of equal paragraphs stays, wherever it is."""

from __future__ import annotations

from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.paragraphs import RepeatedParagraphs
from llmtrain_trainer.preparation.tally import Tally

LICENCE = "This is free software.\nDo with it as you like."


def drop(texts: list[str], min_characters: int) -> tuple[list[str], Tally]:
    documents = [Document(text, f"file:{i}", 0) for i, text in enumerate(texts)]
    repeated = RepeatedParagraphs(documents, min_characters)
    tally = Tally("paragraphs")
    first = [document.text for document in repeated.drop(documents, tally)]
    assert [document.text for document in repeated.drop(documents, Tally("again"))] == first
    return first, tally


def test_repeated_paragraphs_go_and_short_ones_stay() -> None:
    texts = [
        f"{LICENCE}\n\nOne\n\n\nshort",
        f"Two\n\n{LICENCE}\n \nshort",
        f"{LICENCE}\n\n{LICENCE}\n",
        f"Three\n\n{LICENCE}",
    ]
    left, tally = drop(texts, 10)
    assert left == [texts[0], "Two\n\nshort", "Three"]
    assert tally.counts == {"paragraph": 4, "nothing left": 1}
    assert (tally.documents_in, tally.documents_out, tally.documents_changed) == (4, 3, 2)


def test_document_of_which_nothing_is_left_is_left_out() -> None:
    left, tally = drop([LICENCE, f"{LICENCE}\n\n{LICENCE}", "fine"], 1)
    assert left == [LICENCE, "fine"]
    assert tally.counts == {"paragraph": 2, "nothing left": 1}
