"""Documents unlike the others, and those that say nothing new, are left out."""

from __future__ import annotations

import random
import string
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.prune import drop_familiar, drop_unusual
from llmtrain_trainer.preparation.spool import Spool

WORDS = [f"word{i}" for i in range(2000)]


@contextmanager
def spool_texts(folder: Path, texts: list[str]) -> Iterator[Spool]:
    with closing(Spool(folder / "documents")) as spool:
        for number, text in enumerate(texts):
            spool.append(Document(text, f"place:{number}", 0))
        yield spool


def write_text(draws: random.Random, count: int = 150) -> str:
    return " ".join(draws.choices(WORDS, k=count))


def test_repeated_and_random_text_goes_first(tmp_path: Path) -> None:
    draws = random.Random(0)
    texts = [write_text(draws) for _ in range(90)]
    texts += ["click here " * 100 for _ in range(5)]
    texts += ["".join(draws.choices(string.printable, k=1200)) for _ in range(5)]
    with spool_texts(tmp_path, texts) as spool:
        kept, tally = drop_unusual(spool, np.arange(100), 0.9)
    assert kept.tolist() == list(range(90))
    assert tally.counts == {"compresses unlike the others": 10}
    assert (tally.documents_in, tally.documents_out) == (100, 90)


def test_what_earlier_documents_said_is_left_out(tmp_path: Path) -> None:
    draws = random.Random(0)
    first, second = write_text(draws), write_text(draws)
    words = first.split()
    texts = [
        first,
        second,
        " ".join(words[:100]),
        " ".join([*words[50:], *second.split()[:20]]),
        write_text(draws),
        " ".join([*words[:75], *write_text(draws, 75).split()]),
    ]
    with spool_texts(tmp_path, texts) as spool:
        kept, tally = drop_familiar(spool, np.arange(6), 0.3)
        assert kept.tolist() == [0, 1, 4, 5]
        assert tally.counts == {"says little that is new": 2}
        some, _ = drop_familiar(spool, np.array([2, 3, 4]), 0.3)
        assert some.tolist() == [2, 3, 4]


def test_short_documents_are_compared_as_a_whole(tmp_path: Path) -> None:
    with spool_texts(tmp_path, ["yes", "no", "yes", "…"]) as spool:
        kept, _ = drop_familiar(spool, np.arange(4), 0.3)
    assert kept.tolist() == [0, 1, 3]
