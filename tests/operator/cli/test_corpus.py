"""The corpus is made from this very Python."""

from __future__ import annotations

import json
from pathlib import Path

from llmtrain_operator.cli.corpus import MIN_CHARACTERS, MIN_DOCUMENT_CHARACTERS, write_corpus


def test_the_corpus_holds_manual_and_docstrings_once_each(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus" / "python.jsonl")
    documents = [json.loads(line) for line in corpus.path.read_text("utf-8").splitlines()]
    texts = [document["text"] for document in documents]

    assert len(texts) == corpus.documents == len(set(texts))
    assert sum(map(len, texts)) == corpus.characters > MIN_CHARACTERS
    assert min(map(len, texts)) >= MIN_DOCUMENT_CHARACTERS
    sources = {document["source"] for document in documents}
    assert "argparse.py" in sources
    assert not any("site-packages" in source for source in sources)


def test_the_same_python_gives_the_same_corpus(tmp_path: Path) -> None:
    first = write_corpus(tmp_path / "first.jsonl").path.read_bytes()
    assert write_corpus(tmp_path / "second.jsonl").path.read_bytes() == first
