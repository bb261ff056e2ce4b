"""Folders of a host in which ranks stage checkpoints, and which outlive the ranks.

Below: /dev/shm, a disk, and flock(2). Above: the agent holds them while it lives, `staging` uses
them.

An agent that was killed cannot remove its folder, and memory is dear. So each one holds a lock on
its own, which the kernel takes from the dead, and every new agent removes what nobody holds.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
PREFIX = "llmtrain-checkpoints-"


class HostMemory:
    """The folders of one agent: in memory first, then on disk."""

    def __init__(self, parents: Sequence[Path] | None = None) -> None:
        """Make a folder in each of `parents`, and remove those of agents that are dead."""
        if parents is None:
            parents = [SHARED_MEMORY, Path(tempfile.gettempdir())]
        usable = [p for p in parents if os.access(p, os.W_OK | os.X_OK)]
        self._locks: list[int] = []
        self.folders: list[Path] = []
        for parent in usable:
            _remove_abandoned(parent)
            folder, lock = _make_locked_folder(parent)
            self.folders.append(folder)
            self._locks.append(lock)

    def close(self) -> None:
        """Remove the folders."""
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)
        while self._locks:
            os.close(self._locks.pop())


def _make_locked_folder(parent: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():  # no other agent took it for abandoned before it was locked
            return folder, lock
        os.close(lock)


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except OSError:  # another agent removes it, or it is another user's
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
