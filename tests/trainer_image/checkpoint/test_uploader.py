"""The uploading process against real stores: what it sends, and what its death costs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from llmtrain_trainer.checkpoint.uploader import SMALL_BYTES, Staged, Uploader
from llmtrain_trainer.failures import StoreError
from llmtrain_trainer.store import open_store
from llmtrain_trainer.store.described import ManifestObject
from testbed.tiny_run import configure_tiny_run

KEY = "checkpoints/step-00000001/round-00001/part"


@pytest.fixture
def uploader(tmp_path: Path) -> Iterator[Uploader]:
    (tmp_path / "tiny-bucket").mkdir()
    config = configure_tiny_run(tmp_path)
    uploader = Uploader(config.run_uri, config.storage)
    yield uploader
    uploader.close()


def stage(folder: Path, size: int) -> Staged:
    path = folder / "staged"
    path.write_bytes(b"x" * size)
    return Staged(path=path, key=KEY)


@pytest.mark.parametrize("size", [10, SMALL_BYTES])
def test_files_are_described_and_the_process_is_kept(
    uploader: Uploader, tmp_path: Path, size: int
) -> None:
    config = configure_tiny_run(tmp_path)
    store = open_store(config.run_uri, config.storage)
    told: list[ManifestObject] = []
    objects = uploader.upload([stage(tmp_path, size)], on_digest=told.extend)
    assert told == objects
    assert store.find_object(KEY) is not None
    assert objects[0].size == size
    process = uploader.process_id
    assert (process is None) == (size < SMALL_BYTES)
    uploader.upload([stage(tmp_path, size)], on_digest=lambda objects: None)
    assert uploader.process_id == process


def test_death_of_the_process_fails_one_upload(uploader: Uploader, tmp_path: Path) -> None:
    staged = stage(tmp_path, SMALL_BYTES)
    uploader.start()
    assert uploader.process_id is not None
    os.kill(uploader.process_id, signal.SIGSTOP)  # so that it cannot be done before
    hear = uploader._hear

    def kill_first() -> dict[str, Any]:
        assert uploader.process_id is not None
        os.kill(uploader.process_id, signal.SIGKILL)
        return hear()

    with (
        patch.object(uploader, "_hear", kill_first),
        pytest.raises(StoreError, match="SIGKILL") as failed,
    ):
        uploader.upload([staged], on_digest=lambda objects: None)
    assert failed.value.reason == "UploaderDied"
    (again,) = uploader.upload([staged], on_digest=lambda objects: None)
    assert again.size == SMALL_BYTES


def test_what_cannot_be_read_or_stored_is_named(uploader: Uploader, tmp_path: Path) -> None:
    staged = stage(tmp_path, SMALL_BYTES)
    blocker = tmp_path / "tiny-bucket" / "runs"
    blocker.write_text("no folder")
    with pytest.raises(StoreError, match="runs") as failed:
        uploader.upload([staged], on_digest=lambda objects: None)
    assert failed.value.reason == "StorageFailed"
    blocker.unlink()
    uploader.upload([staged], on_digest=lambda objects: None)
