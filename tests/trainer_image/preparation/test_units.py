"""Units of work follow from the work alone, and lose nothing on their way through the store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmtrain_api.data import Tokenizer, TokenizerKind
from llmtrain_trainer.dataset.facts import Facts
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.encoding import encode_batch, pack_tokens, unpack_tokens
from llmtrain_trainer.preparation.reading import Part, iterate_documents, write_document
from llmtrain_trainer.preparation.tally import Tally
from llmtrain_trainer.preparation.team import choose_unit_size
from llmtrain_trainer.tokenizer.marks import CHAT_TOKENS, write_conversation
from llmtrain_trainer.tokenizer.tokenization import make_tokenizer

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("total", "size"),
    [(0, 8 * MIB), (100 * MIB, 8 * MIB), (2560 * MIB, 10 * MIB), (10**12, 64 * MIB)],
)
def test_units_are_larger_where_there_is_more(total: int, size: int) -> None:
    assert choose_unit_size(total, 64 * MIB) == size


def test_documents_come_back_as_they_went(tmp_path: Path) -> None:
    documents = [
        Document("two\nlines\r\n and \u2028, \x85, \x1e", "s3://bucket/a:1", 3, "a key"),
        Document(
            '🙂 \x00 "quoted" \\', "s3://bucket/a:2", 0, facts=Facts(label="x", id="7"), digest="ab"
        ),
    ]
    part = Part(tmp_path)
    part.documents.write_text("".join(map(write_document, documents)), encoding="utf-8")
    assert list(iterate_documents(part, 0)) == documents
    moved = [document.place for document in iterate_documents(part, 40)]
    assert moved == ["s3://bucket/a:41", "s3://bucket/a:42"]


@pytest.mark.parametrize("kind", [TokenizerKind.BYTE, TokenizerKind.BPE])
def test_tokens_come_back_as_they_went(tmp_path: Path, kind: TokenizerKind) -> None:
    texts = ["one", "", "three 🙂", "x" * 1000]
    spec = Tokenizer(kind=kind, vocabulary_size=300)
    encoder = make_tokenizer(spec, texts, tmp_path / "tokenizer")
    data = pack_tokens(encode_batch(texts, encoder, with_roles=False), encoder.token_type)
    came = unpack_tokens(data, encoder.token_type, with_roles=False)
    for expected, (tokens, roles) in zip(encoder.encode(texts), came, strict=True):
        assert tokens.dtype == encoder.token_type
        assert np.array_equal(tokens, expected)
        assert roles is None


def test_roles_come_back_beside_their_tokens(tmp_path: Path) -> None:
    texts = ["plain", write_conversation([("user", "how?"), ("assistant", "so")]), ""]
    spec = Tokenizer(kind=TokenizerKind.BYTE)
    encoder = make_tokenizer(spec, [], tmp_path / "tokenizer", CHAT_TOKENS)
    data = pack_tokens(encode_batch(texts, encoder, with_roles=True), encoder.token_type)
    came = unpack_tokens(data, encoder.token_type, with_roles=True)
    for (tokens, roles), (came_tokens, came_roles) in zip(
        encoder.encode_marked(texts), came, strict=True
    ):
        assert np.array_equal(tokens, came_tokens)
        assert came_roles is not None
        assert np.array_equal(roles, came_roles)


def test_a_tally_comes_back_as_it_was_recorded() -> None:
    tally = Tally("select")
    tally.count_text("before", "after")
    tally.count_text("gone", None)
    tally.count_rule("s3://bucket/a:1", "too short", "4 characters", times=2)
    assert Tally.restore(tally.record()) == tally
