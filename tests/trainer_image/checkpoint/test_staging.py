"""Memory that parts are staged in: kept, found again only when whole, and bounded by name."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from unittest.mock import patch

import pytest

from llmtrain_trainer.checkpoint.manifest import CheckpointManifest
from llmtrain_trainer.checkpoint.staging import StagingArea, StagingFullError
from llmtrain_trainer.store.described import describe_file

NAME = "part-00000-of-00001.safetensors"


def stage(area: StagingArea, data: bytes) -> None:
    area.prepare(len(data))[:] = data


def describe(area: StagingArea) -> CheckpointManifest:
    return CheckpointManifest(
        step=5,
        round=1,
        world_size=1,
        created=0.0,
        dataset="d",
        arithmetic={},
        versions={},
        objects=[describe_file(area.path, f"checkpoints/{NAME}")],
    )


def test_sealed_part_is_found_by_the_next_process(tmp_path: Path) -> None:
    area = StagingArea([tmp_path], NAME)
    stage(area, b"state")
    assert StagingArea([tmp_path], NAME).find_part() is None
    area.seal(describe(area))
    found = StagingArea([tmp_path], NAME).find_part()
    assert found is not None
    assert (found.path.read_bytes(), found.seal.step, found.is_committed) == (b"state", 5, False)
    area.note_commit()
    found = StagingArea([tmp_path], NAME).find_part()
    assert found is not None
    assert found.is_committed


def test_part_that_is_being_changed_or_is_damaged_is_not_found(tmp_path: Path) -> None:
    area = StagingArea([tmp_path], NAME)
    stage(area, b"state")
    area.seal(describe(area))
    area.path.write_bytes(b"stale")
    assert area.find_part() is None
    area.path.write_bytes(b"state")
    assert area.find_part() is not None
    area.prepare(5)  # a rank that is killed amid the copy leaves no seal
    assert area.find_part() is None


def test_memory_is_kept_between_saves(tmp_path: Path) -> None:
    area = StagingArea([tmp_path], NAME)
    stage(area, b"first")
    inode = area.path.stat().st_ino
    stage(area, b"again")
    assert (area.path.read_bytes(), area.path.stat().st_ino) == (b"again", inode)
    stage(area, b"longer than that")
    assert area.path.read_bytes() == b"longer than that"


def test_full_memory_falls_back_to_disk_and_both_full_are_named(tmp_path: Path) -> None:
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    full = {memory}
    allocate = os.posix_fallocate

    def allocate_where_there_is_room(descriptor: int, offset: int, size: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().parent in full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(descriptor, offset, size)

    with patch("os.posix_fallocate", allocate_where_there_is_room):
        area = StagingArea([memory, disk], NAME)
        stage(area, b"state")
        assert area.path.parent == disk
        assert list(memory.iterdir()) == []
        full.add(disk)
        with pytest.raises(StagingFullError, match=f"{disk} has [0-9]+ MiB left") as failed:
            area.prepare(3 * 1024 * 1024)
    assert failed.value.reason == "NoSpace"
    assert str(memory) in failed.value.message
    assert "part of 3 MiB" in failed.value.message
    assert "sharedMemory" in failed.value.next_step
