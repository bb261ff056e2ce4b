"""Documents that share thirteen words in a row with an evaluation set are left out."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from llmtrain_trainer.preparation.contamination import Contamination, drop_contaminated
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.spool import Spool

QUESTION = " ".join(f"q{i}" for i in range(20))
SHORT = "What is the capital of France?"
KNOWN = Contamination(Document(text, f"set:{i}", 0) for i, text in enumerate([QUESTION, SHORT]))


@pytest.mark.parametrize(
    ("text", "is_known"),
    [
        (f"before {QUESTION} after", True),
        ("before " + " ".join(f"Q{i}," for i in range(3, 16)) + " after", True),
        ("before " + " ".join(f"q{i}" for i in range(3, 15)) + " after", False),
        ("Tell me: what is the capital of france", True),
        ("what is the capital of France, do you know?", False),
        ("", False),
    ],
)
def test_thirteen_words_in_a_row(text: str, is_known: bool) -> None:
    assert (KNOWN.judge([text, "something else", text]) > 0).tolist() == [
        is_known,
        False,
        is_known,
    ]


def test_contaminated_documents_are_counted(tmp_path: Path) -> None:
    with closing(Spool(tmp_path / "spool")) as spool:
        for i, text in enumerate(["fine", QUESTION, "unseen", SHORT, "good"]):
            spool.append(Document(text, f"file:{i}", 0))
        kept, tally = drop_contaminated(spool, np.array([0, 1, 3, 4]), KNOWN)
    assert kept.tolist() == [0, 4]
    assert (tally.documents_in, tally.documents_out) == (4, 2)
    assert tally.examples["in a set to evaluate on"][0].measure == "8 sequences of 13 words"
