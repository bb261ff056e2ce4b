"""What a folder has that S3 has not: half-written files and paths that lead out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmtrain_trainer.failures import ConfigurationError, StoreError
from llmtrain_trainer.store import ObjectMissingError
from llmtrain_trainer.store.folder import PARTIAL_PREFIX, FolderStore


def test_objects_are_plain_files(tmp_path: Path) -> None:
    FolderStore(tmp_path, "bucket", "runs").write_bytes("a/b.txt", b"text")
    assert (tmp_path / "bucket/runs/a/b.txt").read_bytes() == b"text"


def test_half_written_files_are_no_objects(tmp_path: Path) -> None:
    store = FolderStore(tmp_path, "bucket", "")
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / f"{PARTIAL_PREFIX}1").write_bytes(b"half")
    assert list(store.list_objects()) == []


def test_failed_write_keeps_the_old_object(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "root", "bucket", "")
    store.write_bytes("key", b"old")
    with pytest.raises(ObjectMissingError):
        store.upload("key", tmp_path / "no such file")
    assert store.read_bytes("key") == b"old"
    assert [path.name for path in (tmp_path / "root/bucket").iterdir()] == ["key"]


@pytest.mark.parametrize("key", ["../outside", "a/../../outside", "a//b", "./a", "folder/"])
def test_keys_that_are_no_plain_paths_are_refused(tmp_path: Path, key: str) -> None:
    store = FolderStore(tmp_path, "bucket", "")
    with pytest.raises(ConfigurationError, match="cannot be a file"):
        store.write_bytes(key, b"")
    assert list(tmp_path.rglob("*")) == []


def test_root_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("no folder")
    with pytest.raises(StoreError, match="root"):
        FolderStore(tmp_path / "root", "bucket", "").check()
