"""Tokenizers keep every text whole, and `transformers` reads them as we do."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as TokenizersTokenizer
from transformers import AutoTokenizer

from llmtrain_api.data import TRAINED_KINDS, Tokenizer, TokenizerKind
from llmtrain_trainer.failures import ConfigurationError
from llmtrain_trainer.store.folder import FolderStore
from llmtrain_trainer.tokenizer import words_once
from llmtrain_trainer.tokenizer.learning import END_OF_TEXT, cut_at_lines, train_bpe_tokenizer
from llmtrain_trainer.tokenizer.tokenization import (
    TextEncoder,
    encode_with,
    fetch_tokenizer,
    load_encoder,
    make_tokenizer,
)

LONG_TEXT = "\n \t\n".join(topics.values()).replace(". ", ".\n")
TEXTS = [
    *list(topics.values())[:8],
    "",
    LONG_TEXT,
    "Größe  naïve\t\n\n  🙂 <|endoftext|>\r\n",
    "x" * 3000,
]


@pytest.fixture(scope="module")
def bpe() -> TokenizersTokenizer:
    return train_bpe_tokenizer(TEXTS[:8], 600)


class Made(NamedTuple):
    """A tokenizer and the folder that holds its own."""

    spec: Tokenizer
    encoder: TextEncoder
    folder: Path


@pytest.fixture(scope="module", params=["byte", "character", "bpe", "wordpiece", "unigram"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A tokenizer of each kind, made of the texts."""
    spec = Tokenizer(kind=request.param, vocabulary_size=600)
    folder = tmp_path_factory.mktemp(request.param)
    return Made(spec, make_tokenizer(spec, TEXTS, folder / "kept"), folder)


def test_text_survives_and_transformers_agrees(made: Made) -> None:
    encoder = made.encoder
    theirs = AutoTokenizer.from_pretrained(made.folder / "kept")
    assert len(theirs) == encoder.vocabulary_size
    assert theirs.eos_token_id == encoder.end_of_text
    for text, tokens in zip(TEXTS, encoder.encode(TEXTS), strict=True):
        assert tokens[-1] == encoder.end_of_text
        assert (tokens[:-1] != encoder.end_of_text).all()
        assert tokens.max() < encoder.vocabulary_size
        assert theirs.decode(tokens[:-1]) == text
        if END_OF_TEXT not in text:
            assert theirs.encode(text) == tokens[:-1].tolist()


def test_a_tokenizer_that_is_loaded_again_makes_the_same_tokens(made: Made, tmp_path: Path) -> None:
    loaded = load_encoder(made.spec, FolderStore(made.folder, "kept", ""), tmp_path / "loaded")
    encoders = (made.encoder, loaded)
    facts = [(e.end_of_text, e.unknown, e.vocabulary_size, e.token_type) for e in encoders]
    assert facts[0] == facts[1]
    for tokens, again in zip(made.encoder.encode(TEXTS), loaded.encode(TEXTS), strict=True):
        assert tokens.tolist() == again.tolist()


def test_the_same_is_learned_each_time(made: Made, tmp_path: Path) -> None:
    if made.spec.kind in TRAINED_KINDS:
        assert made.encoder.vocabulary_size == 600
    make_tokenizer(made.spec, TEXTS, tmp_path / "again")
    again = (tmp_path / "again" / "tokenizer.json").read_bytes()
    assert again == (made.folder / "kept" / "tokenizer.json").read_bytes()


def test_bytes_that_never_occurred_are_known_to_unigram(tmp_path: Path) -> None:
    spec = Tokenizer(kind=TokenizerKind.UNIGRAM, vocabulary_size=300)
    for name, texts in (("some", ["a few words, " * 9]), ("none", [])):
        encoder = make_tokenizer(spec, texts, tmp_path / name)
        theirs = AutoTokenizer.from_pretrained(tmp_path / name)
        (tokens,) = encoder.encode(["\x00 🙂 ünbekannt"])
        assert theirs.decode(tokens[:-1]) == "\x00 🙂 ünbekannt"


@given(
    texts=st.lists(
        st.text(st.characters(max_codepoint=127), max_size=60)
        | st.text("ab '\tsd1\n\x1c.-", max_size=60)
        | st.sampled_from(["we'll  \n\n don't", "naïve é", "x" * 40, END_OF_TEXT]),
        max_size=6,
    )
)
@settings(max_examples=200, deadline=None)
def test_words_encoded_once_are_encoded_alike(bpe: TokenizersTokenizer, texts: list[str]) -> None:
    encode = partial(encode_with, bpe, cut_at_lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words_once, "LONGEST_TEXT", 30)
        patch.setattr(words_once, "MAX_WORDS", 5)
        table = words_once.WordTable(bpe, encode)
        for _ in range(2):
            found = [tokens.tolist() for tokens in table.encode(texts)]
            assert found == [tokens.tolist() for tokens in encode(texts)]


def test_long_text_is_cut_and_whole() -> None:
    pieces = cut_at_lines(LONG_TEXT)
    assert "".join(pieces) == LONG_TEXT
    assert len(pieces) > 3


def test_byte_tokens_are_bytes(tmp_path: Path) -> None:
    encoder = make_tokenizer(Tokenizer(kind=TokenizerKind.BYTE), [], tmp_path / "tokenizer")
    text = "".join(map(chr, range(0x250))) + "🙂"
    (tokens,) = encoder.encode([text])
    assert tokens.tolist() == [*text.encode(), 256]
    assert encoder.vocabulary_size == 257


def test_character_vocabulary_is_what_occurs(tmp_path: Path) -> None:
    spec = Tokenizer(kind=TokenizerKind.CHARACTER)
    encoder = make_tokenizer(spec, ["banana\n", "né"], tmp_path / "tokenizer")
    assert encoder.vocabulary_size == len("\nabné") + 2
    theirs = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert theirs.encode("bx") == [theirs.encode("b")[0], theirs.unk_token_id]


def test_pretrained_tokenizer_is_taken_over(tmp_path: Path) -> None:
    spec = Tokenizer(kind=TokenizerKind.BPE, vocabulary_size=500)
    ours = make_tokenizer(spec, TEXTS, tmp_path / "made")
    AutoTokenizer.from_pretrained(tmp_path / "made").save_pretrained(tmp_path / "root/bucket/gpt")
    store = FolderStore(tmp_path / "root", "bucket", "gpt")
    theirs = fetch_tokenizer(store, tmp_path / "fetched")
    assert (theirs.end_of_text, theirs.vocabulary_size) == (ours.end_of_text, 500)
    for first, second in zip(ours.encode(TEXTS), theirs.encode(TEXTS), strict=True):
        assert first.tolist() == second.tolist()
    assert AutoTokenizer.from_pretrained(tmp_path / "fetched").eos_token == END_OF_TEXT


def test_unusable_pretrained_tokenizers_are_refused(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "root", "bucket", "gpt")
    with pytest.raises(ConfigurationError, match=r"s3://bucket/gpt .* no tokenizer\.json"):
        fetch_tokenizer(store, tmp_path / "1")
    store.write_bytes("tokenizer.json", b"{}")
    with pytest.raises(ConfigurationError, match=r"tokenizer\.json cannot be read"):
        fetch_tokenizer(store, tmp_path / "2")
    make_tokenizer(Tokenizer(kind=TokenizerKind.BYTE), [], tmp_path / "byte")
    data = (tmp_path / "byte/tokenizer.json").read_text()
    store.write_bytes("tokenizer.json", data.replace(END_OF_TEXT, "[END]").encode())
    store.write_bytes("tokenizer_config.json", json.dumps({"eos_token": "[STOP]"}).encode())
    with pytest.raises(ConfigurationError, match="names no eos_token that the vocabulary has"):
        fetch_tokenizer(store, tmp_path / "3")
