"""Held-out documents that are nearly one of training: counted, named, and only those."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.leakage import find_leaks
from llmtrain_trainer.preparation.minhash import LEAKAGE_SCHEME, compute_keys
from llmtrain_trainer.preparation.spool import Spool
from testbed.prepared_topics import DOCUMENTS, TopicsFolder, open_prepared, prepare, read_manifest


def edit_text(text: str, every: int) -> str:
    """Return a text with each so-and-so-manyth word replaced."""
    words = text.split()
    words[::every] = ["edited"] * len(words[::every])
    return " ".join(words)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with closing(Spool(tmp_path / "spool")) as spool:
        yield spool


@pytest.mark.parametrize(
    ("copies", "expected"),
    [
        ([edit_text(text, 25) for text in DOCUMENTS], 1.0),  # three of four sequences remain
        ([edit_text(text, 3) for text in DOCUMENTS], 0.0),
        ([text[::-1] for text in DOCUMENTS], 0.0),
    ],
)
def test_near_copies_are_counted_and_nothing_else(
    spool: Spool, copies: list[str], expected: float
) -> None:
    texts = [*DOCUMENTS, *copies]
    for number, text in enumerate(texts):
        spool.append(Document(text, f"s3://b/a.jsonl:{number}", 0))
    trained, held_out = np.split(np.arange(len(texts)), [len(DOCUMENTS)])
    found = find_leaks(spool, compute_keys(texts, LEAKAGE_SCHEME), trained, held_out)
    assert found.documents == len(copies)
    assert found.near_copies == pytest.approx(expected * len(copies), abs=0.02 * len(copies))
    assert found.is_notable == bool(expected)
    for example in found.examples:
        number = int(example.place.rpartition(":")[2])
        assert example.measure == f"nearly s3://b/a.jsonl:{number - len(DOCUMENTS)}"


def test_a_dataset_says_what_leaks_unless_near_duplicates_are_left_out(tmp_path: Path) -> None:
    folder = TopicsFolder(tmp_path)
    texts = [*DOCUMENTS, *(edit_text(text, 25) for text in DOCUMENTS)]
    uri = folder.write_lines("twice.jsonl", [{"text": text} for text in texts])
    sources = {"sources": [{"uri": uri}]}
    config = folder.configure("leaking", **sources)
    result = prepare(config)
    manifest = read_manifest(config, result)
    assert manifest.leakage is not None
    assert manifest.leakage.documents == manifest.validation.num_documents
    # Of a pair both are held out now and then.
    assert 0.7 < manifest.leakage.near_copies / manifest.leakage.documents < 1.0
    page = open_prepared(config, result).read_bytes("report.html").decode()
    assert "data.deduplicate.near: edited" in page

    without = folder.configure("without", **sources, deduplicate={"near": "edited"})
    assert read_manifest(without, prepare(without)).leakage is None
