"""Sources are cut to their caps, and what stays does not depend on the order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import numpy as np
import pytest

from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.reduce import drop_surplus
from llmtrain_trainer.preparation.splits import draw_share
from llmtrain_trainer.preparation.spool import Spool

DOCUMENTS = [Document(f"text {i} " + "x" * (i % 50), f"file:{i}", i % 2) for i in range(4000)]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with closing(Spool(tmp_path / "spool")) as spool:
        for document in DOCUMENTS:
            spool.append(document)
        yield spool


def keep(spool: Spool, *caps: int | None) -> set[str]:
    kept, tally = drop_surplus(spool, np.arange(len(spool)), caps)
    texts = {document.text for document in spool.read(kept)}
    assert tally.record().documents_out == len(texts) == len(kept)
    return texts


def test_only_capped_sources_lose_documents(spool: Spool) -> None:
    kept = keep(spool, 20_000, None)
    first = [document for document in DOCUMENTS if document.source == 0]
    left = [document.text for document in first if document.text in kept]
    assert 19_900 < sum(map(len, left)) <= 20_000
    assert len(kept) - len(left) == len(DOCUMENTS) - len(first)


def test_higher_caps_keep_what_lower_ones_kept(spool: Spool) -> None:
    assert keep(spool, 5_000, 9_000) < keep(spool, 10_000, 9_000) < keep(spool, None, 20_000_000)


def test_order_does_not_matter(spool: Spool, tmp_path: Path) -> None:
    with closing(Spool(tmp_path / "other")) as other:
        for document in Random(0).sample(DOCUMENTS, len(DOCUMENTS)):
            other.append(document)
        assert keep(other, 10_000, 9_000) == keep(spool, 10_000, 9_000)


def test_choice_has_nothing_to_do_with_the_split(spool: Spool) -> None:
    shares = [draw_share(text) for text in keep(spool, 20_000, 20_000)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
