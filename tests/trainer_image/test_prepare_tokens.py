"""What becomes of documents once they are chosen: parts of the split, tokens, roles and rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from llmtrain_trainer.tokenizer.marks import Role
from testbed.prepared_topics import (
    DOCUMENTS,
    JSONL_DATA,
    TopicsFolder,
    list_documents,
    open_prepared,
    open_result,
    prepare,
    read_manifest,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> TopicsFolder:
    return TopicsFolder(tmp_path_factory.mktemp("folder"))


def test_tail_split_holds_out_the_end_of_each_document(
    folder: TopicsFolder, tmp_path: Path
) -> None:
    config = folder.configure("tail", split={"method": "tail", "validationFraction": 0.25})
    dataset = open_result(config, prepare(config), tmp_path / "cache")
    train, held_out = list_documents(dataset, tmp_path / "tokenizer")
    joined = [start + end for start, end in zip(train, held_out, strict=True)]
    assert joined == DOCUMENTS
    share = sum(map(len, held_out)) / sum(map(len, DOCUMENTS))
    assert share == pytest.approx(0.25, abs=0.001)


def test_test_part_is_a_third_file(folder: TopicsFolder, tmp_path: Path) -> None:
    config = folder.configure("tested", split={**JSONL_DATA["split"], "testFraction": 0.2})
    dataset = open_result(config, prepare(config), tmp_path / "cache")
    assert dataset.test is not None
    train, held_out = list_documents(dataset, tmp_path / "tokenizer")
    last = dataset.test.num_documents
    assert len(train) + len(held_out) + last == len(DOCUMENTS)
    assert 0.1 < last / len(DOCUMENTS) < 0.35
    assert dataset.unigram_counts.sum() == dataset.train.num_tokens

    counts = np.bincount(np.frombuffer("".join(held_out).encode(), np.uint8), minlength=257)
    counts[256] = len(held_out)
    assert dataset.validation.count_tokens(dataset.vocabulary_size).tolist() == counts.tolist()


def test_tokenizer_learns_from_a_sample_and_is_described(folder: TopicsFolder) -> None:
    files = []
    for sample in (30_000, 1_000_000_000):
        tokenizer = {"kind": "bpe", "vocabularySize": 1000, "sampleCharacters": sample}
        config = folder.configure(f"sample-{sample}", tokenizer=tokenizer)
        result = prepare(config)
        files.append(open_prepared(config, result).read_bytes("tokenizer/tokenizer.json"))
        said = read_manifest(config, result).tokenizer
        assert said is not None
        assert 1.0 < said.tokens_per_word < 4.0
        assert 2.0 < said.bytes_per_token < 5.0
        assert said.unknown_rate == 0.0
        assert 500 < said.tokens_used <= 1000
    assert files[0] != files[1]


CHATS = [
    [
        {"role": "system", "content": "Explain Python."},
        {"role": "user", "content": f"What is number {number}? "},
        {"role": "assistant", "content": text[:400]},
    ]
    for number, text in enumerate(DOCUMENTS)
]


@pytest.mark.parametrize("kind", ["byte", "character", "bpe", "wordpiece", "unigram"])
def test_conversations_are_tokens_as_transformers_make_them(
    folder: TopicsFolder, tmp_path: Path, kind: str
) -> None:
    records = [{"chat": chat, "topic": f"t{i % 2}"} for i, chat in enumerate(CHATS)]
    uri = folder.write_lines("chats.jsonl", records)
    fields = {"messages": "chat", "label": "topic", "id": "topic"}
    config = folder.configure(
        f"chats-{kind}",
        sources=[{"uri": uri, "fields": fields}],
        tokenizer={"kind": kind, "vocabularySize": 900},
    )
    result = prepare(config)
    dataset = open_result(config, result, tmp_path / "cache")
    (tmp_path / "tokenizer").mkdir()
    dataset.save_tokenizer(tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    expected = [
        tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False) for chat in CHATS
    ]
    found = [
        split.read_document(i).tolist()
        for split in (dataset.train, dataset.validation)
        for i in range(split.num_documents)
    ]
    assert sorted(found) == sorted(expected)

    manifest = read_manifest(config, result)
    assert manifest.labels == ["t0", "t1"]
    shard = manifest.train.shards[0]
    roles = np.fromfile(dataset.folder / str(shard.roles), np.uint8)
    tokens = np.fromfile(dataset.folder / shard.tokens, manifest.token_type)
    spoken = str(tokenizer.decode(tokens[roles == Role.ASSISTANT]))
    *words, rest = spoken.split("<|im_end|>")
    assert (len(words), rest) == (dataset.train.num_documents, "")
    assert set(words) <= {chat[2]["content"].strip() for chat in CHATS}
    lines = (dataset.folder / str(shard.facts)).read_text().splitlines()
    assert len(lines) == dataset.train.num_documents
    assert json.loads(lines[0])["label"] in {"t0", "t1"}


def test_rows_budget_and_copies_are_counted(folder: TopicsFolder, tmp_path: Path) -> None:
    data: dict[str, Any] = {
        "tokenizer": {"kind": "bpe", "vocabularySize": 1000},
        "augment": {"synonym": 0.3, "typo": 0.1, "fillInMiddle": 0.5},
        "reduce": {"tokens": 40_000, "typicalShare": 0.9, "minNovelty": 0.1},
        "pack": {"sequenceLength": 128},
        "shardMebibytes": 1,
    }
    config = folder.configure("shaped", **data)
    result = prepare(config)
    manifest = read_manifest(config, result)
    train = manifest.train
    assert train.num_tokens % 128 == 0
    assert train.num_tokens - train.num_padding <= 40_000
    assert train.num_padding < 0.05 * train.num_tokens
    steps = {step.step: step for step in manifest.steps}
    assert steps["typical"].documents_out < steps["typical"].documents_in
    assert steps["augment"].rules["copy"].count > 0
    assert steps["budget"].rules["above the budget of tokens"].count > 0
    dataset = open_result(config, result, tmp_path / "cache")
    (tmp_path / "tokenizer").mkdir()
    dataset.save_tokenizer(tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert manifest.vocabulary_size == 1000
    counts = dataset.train.count_tokens(manifest.vocabulary_size)
    assert counts[tokenizer.convert_tokens_to_ids("<|fim_middle|>")] > 0
    held_out = dataset.validation.count_tokens(manifest.vocabulary_size)
    assert held_out[tokenizer.convert_tokens_to_ids("<|fim_middle|>")] == 0
    assert dataset.unigram_counts.sum() == train.num_tokens - train.num_padding
