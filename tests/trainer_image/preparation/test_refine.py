"""Steps in order: each sees what the one before it left, and counts it."""

from __future__ import annotations

from llmtrain_api.data import DataSpec
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.refine import (
    BATCH_CHARACTERS,
    choose_steps,
    divide_documents,
    refine_documents,
)

DATA = DataSpec.model_validate(
    {"sources": [{"uri": "s3://bucket/"}], "clean": {"minCharacters": 3, "quality": ["c4"]}}
    | {"privacy": {"action": "off"}}
)
TEXTS = ["\x00a", "ab\x00c", "It has words enough to stay. It does. Is it? Yes.\nMenu", "none"]


def test_each_step_counts_what_reaches_it() -> None:
    documents = [Document(text, f"file:{i}", 0) for i, text in enumerate(TEXTS)]
    refined = refine_documents(documents, choose_steps(DATA))
    assert [(d.text, d.place) for d in refined.documents] == [(TEXTS[2][:-5], "file:2")]
    normalize, select, c4 = (tally.record() for tally in refined.tallies)
    assert (normalize.documents_in, normalize.documents_out, normalize.documents_changed) == (
        4,
        4,
        2,
    )
    assert (select.documents_in, select.documents_out) == (4, 2)
    assert {rule: found.count for rule, found in select.rules.items()} == {
        "too short": 1,
        "missing value": 1,
    }
    assert select.rules["too short"].examples[0].measure == "1 characters, at least 3"
    assert (c4.documents_in, c4.documents_out, c4.documents_changed) == (2, 1, 1)
    assert c4.characters_in - c4.characters_out == len("abc") + len("\nMenu")


def test_batches_hold_every_document_once_in_order() -> None:
    documents = [Document("x" * (BATCH_CHARACTERS // 2 - 1), f"file:{i}", 0) for i in range(7)]
    batches = list(divide_documents(documents))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert [document for batch in batches for document in batch] == documents
