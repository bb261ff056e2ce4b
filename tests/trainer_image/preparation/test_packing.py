"""Rows: whole documents, each token once, padding told from text."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from llmtrain_api.shaping import Overlong
from llmtrain_trainer.dataset.loading import Split
from llmtrain_trainer.dataset.shards import ShardWriter, SplitManifest
from llmtrain_trainer.preparation.packing import RowPacker
from llmtrain_trainer.tokenizer.marks import Role

END_OF_TEXT = 9999
ROW = 64


def pack(
    folder: Path,
    lengths: list[int],
    *,
    overlong: Overlong = Overlong.DIVIDE,
    open_rows: int = 16,
    shard_tokens: int = 10_000,
) -> SplitManifest:
    writer = ShardWriter(folder, "train", with_roles=True, shard_tokens=shard_tokens)
    packer = RowPacker(writer, ROW, END_OF_TEXT, overlong, open_rows)
    for number, length in enumerate(lengths):
        tokens = np.full(length, number, dtype="<u2")
        tokens[-1] = END_OF_TEXT
        roles = np.full(length, Role.TEXT, dtype=np.uint8)
        packer.append(tokens, num_bytes=length, roles=roles)
    assert packer.num_tokens == sum(min(n, ROW) for n in lengths) or overlong is Overlong.DIVIDE
    manifest = packer.finish()
    assert manifest is not None
    return manifest


def read(folder: Path, manifest: SplitManifest) -> tuple[np.ndarray, np.ndarray, Split]:
    tokens = np.concatenate([np.fromfile(folder / s.tokens, "<u2") for s in manifest.shards])
    roles = np.concatenate([np.fromfile(folder / str(s.roles), "u1") for s in manifest.shards])
    return tokens, roles, Split(folder, manifest, "<u2", END_OF_TEXT)


@pytest.mark.parametrize(("open_rows", "shard_tokens"), [(1, 100), (16, 10_000), (1024, 64)])
def test_documents_that_fit_are_never_cut(
    tmp_path: Path, open_rows: int, shard_tokens: int
) -> None:
    draws = random.Random(0)
    lengths = [draws.randrange(2, ROW + 1) for _ in range(500)]
    manifest = pack(tmp_path, lengths, open_rows=open_rows, shard_tokens=shard_tokens)
    tokens, roles, split = read(tmp_path, manifest)
    assert len(tokens) == len(roles) == manifest.num_tokens
    assert manifest.num_tokens % ROW == 0
    assert manifest.num_documents == split.num_documents == len(lengths)
    assert manifest.num_padding == int((roles == Role.PADDING).sum())
    assert manifest.num_tokens - manifest.num_padding == sum(lengths) == manifest.num_bytes
    for number, length in enumerate(lengths):
        places = np.flatnonzero(tokens == number)
        assert len(places) == length - 1
        assert places[0] // ROW == (places[-1] + 1) // ROW
    found = sorted((int(d[0]), len(d)) for d in map(split.read_document, range(len(lengths))))
    assert found == [(number, length - 1) for number, length in enumerate(lengths)]
    assert set(tokens[roles == Role.PADDING].tolist()) <= {END_OF_TEXT}


def test_many_open_rows_waste_little(tmp_path: Path) -> None:
    draws = random.Random(0)
    lengths = [draws.randrange(2, ROW // 2) for _ in range(2000)]
    assert pack(tmp_path, lengths, open_rows=256).num_padding < 0.02 * sum(lengths)


def test_overlong_documents_go_on_in_another_row(tmp_path: Path) -> None:
    manifest = pack(tmp_path, [ROW * 2 + 10, ROW - 10, 5])
    tokens, roles, split = read(tmp_path, manifest)
    assert (manifest.num_divided, manifest.num_truncated) == (1, 0)
    assert manifest.num_documents == 5
    assert int((tokens == 0).sum()) == ROW * 2 + 9
    assert [len(split.read_document(i)) for i in range(5)] == [ROW, ROW, 9, ROW - 11, 4]
    assert int((roles == Role.PADDING).sum()) == manifest.num_padding == ROW - 5


def test_truncated_documents_still_end(tmp_path: Path) -> None:
    manifest = pack(tmp_path, [ROW * 2, ROW], overlong=Overlong.TRUNCATE)
    tokens, _, _ = read(tmp_path, manifest)
    assert (manifest.num_divided, manifest.num_truncated) == (0, 1)
    assert manifest.num_tokens == 2 * ROW
    assert tokens.reshape(2, ROW)[:, -1].tolist() == [END_OF_TEXT] * 2


def test_nothing_makes_no_split(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "train", with_roles=True)
    assert RowPacker(writer, ROW, END_OF_TEXT, Overlong.DIVIDE).finish() is None
