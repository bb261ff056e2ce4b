"""Memory that a rank stages its part in: kept between saves, and beyond the death of the rank.

Below: the file system in memory, /dev/shm, and a disk where that is too small. Above:
`saving` copies into it, the `uploader` sends from it, `restore` finds it again.

    <folder of the host>/part-00001-of-00004.safetensors    the part
    <folder of the host>/part-00001-of-00004.json           its seal: written when it is whole

A seal is the part of a manifest that this rank has to say. It goes before the part is changed.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from llmtrain_trainer.checkpoint.manifest import CheckpointManifest
from llmtrain_trainer.failures import StoreError
from llmtrain_trainer.store.described import describe_file

SEAL_SUFFIX = ".json"
COMMITTED_SUFFIX = ".committed"
MEBIBYTE = 1024**2


class StagingFullError(StoreError):
    """Neither memory nor disk has room for a part. It costs the save, as a failing store does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedPart:
    """A whole part that was found in memory."""

    path: Path
    seal: CheckpointManifest
    is_committed: bool
    """Whether rank 0, if this is its part, has made a checkpoint of it. Others do not know."""


class StagingArea:
    """The memory of one rank."""

    def __init__(self, folders: Sequence[Path], name: str) -> None:
        """Stage a file called `name` in the first of `folders` that has room for it."""
        self._folders = folders
        self._name = name
        self._mapped: mmap.mmap | None = None
        self._path: Path | None = None

    @property
    def path(self) -> Path:
        """Where the part lies."""
        assert self._path is not None
        return self._path

    def prepare(self, size: int) -> memoryview:
        """Break the seal and return the memory to stage a part of `size` bytes in.

        Raises:
            StagingFullError: no folder has room for it.
        """
        self.break_seal()
        if self._mapped is None or len(self._mapped) != size:
            self._mapped = None
            self._path, self._mapped = self._allocate(size)
        return memoryview(self._mapped)

    def break_seal(self) -> None:
        """Note that there is nothing whole here."""
        for folder in self._folders:
            for suffix in (SEAL_SUFFIX, COMMITTED_SUFFIX):
                (folder / self._name).with_suffix(suffix).unlink(missing_ok=True)

    def seal(self, manifest: CheckpointManifest) -> None:
        """Note that the part is whole, and what it is."""
        unfinished = self.path.with_suffix(".unfinished")
        unfinished.write_text(manifest.model_dump_json(by_alias=True), encoding="utf-8")
        unfinished.replace(self.path.with_suffix(SEAL_SUFFIX))

    def note_commit(self) -> None:
        """Note that the store has a checkpoint of what is staged."""
        self.path.with_suffix(COMMITTED_SUFFIX).touch()

    def find_part(self) -> StagedPart | None:
        """Return the part that an earlier rank has left here, if all its digests agree."""
        for folder in self._folders:
            path = folder / self._name
            try:
                seal = CheckpointManifest.model_validate_json(
                    path.with_suffix(SEAL_SUFFIX).read_bytes()
                )
                is_whole = all(
                    describe_file(folder / Path(item.key).name, item.key) == item
                    for item in seal.objects
                )
            except (OSError, ValidationError):
                continue
            if is_whole:
                is_committed = path.with_suffix(COMMITTED_SUFFIX).exists()
                return StagedPart(path=path, seal=seal, is_committed=is_committed)
        return None

    def find_neighbour(self, name: str) -> Path:
        """Return the file of another rank of this host, which may have had to stage elsewhere."""
        sealed = [f for f in self._folders if (f / name).with_suffix(SEAL_SUFFIX).exists()]
        return (sealed or self._folders)[0] / name

    def _allocate(self, size: int) -> tuple[Path, mmap.mmap]:
        refusals = []
        for folder in self._folders:
            path = folder / self._name
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                return path, _map_file(path, size)
            except OSError as error:
                path.unlink(missing_ok=True)
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM):
                    raise
                free = os.statvfs(folder)
                available = free.f_bavail * free.f_frsize // MEBIBYTE
                refusals.append(f"{folder} has {available} MiB left")
        raise StagingFullError(
            f"a checkpoint's part of {-(-size // MEBIBYTE)} MiB fits nowhere: "
            f"{', '.join(refusals)}",
            reason="NoSpace",
            next_step="raise workers.resources.sharedMemory (and memory, which it counts into) "
            "to the size of the part",
        )


def _map_file(path: Path, size: int) -> mmap.mmap:
    """Make a file of `size` bytes with all its pages in place, so that writing meets no fault."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(descriptor, size)
        os.posix_fallocate(descriptor, 0, size)
        return mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    finally:
        os.close(descriptor)
