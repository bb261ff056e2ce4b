"""A sample does not depend on order, and what is shown of it is short."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import numpy as np

from llmtrain_trainer.data_report.sample import SAMPLE_CHARACTERS, shorten_document
from llmtrain_trainer.preparation.corpus import Corpus
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.spool import Spool
from llmtrain_trainer.tokenizer.marks import write_conversation


def test_sample_is_the_same_in_any_order(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(500)]
    samples = []
    for seed in (0, 1):
        with closing(Spool(tmp_path / "spool")) as spool:
            for text in random.Random(seed).sample(texts, len(texts)):
                spool.append(Document(text, "place", 0))
            corpus = Corpus(spool, np.arange(500), None, [], [])
            samples.append([document.text for document in corpus.sample(20)])
    assert samples[0] == samples[1]
    assert len(set(samples[0])) == 20


def test_what_is_shown_of_a_document_is_short_and_without_marks() -> None:
    chat = write_conversation([("user", "Hi"), ("assistant", "Hello")])
    shown = [
        shorten_document(Document(text, "place", 0)).text
        for text in ("x" * 10 * SAMPLE_CHARACTERS, chat)
    ]
    assert shown == ["x" * SAMPLE_CHARACTERS, "user\nHi\nassistant\nHello\n"]
