"""What a host downloads once, whatever its number of ranks and their restarts.

Below: the store. Above: `dataset.loading` and `model.pretrained`. The first process takes a lock
and downloads what is missing; a file has its name only once its SHA-256 agrees.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llmtrain_trainer.store.described import ManifestObject, describe_file
from llmtrain_trainer.store.protocol import Store


def find_host_folder(kind: str) -> Path:
    """Return the folder in which this user's processes on this host share what is of a kind."""
    return Path(tempfile.gettempdir()) / f"llmtrain-{kind}-{os.getuid()}"


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Make a folder, and hold its lock for the block."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_whole(folder: Path, objects: Sequence[ManifestObject]) -> bool:
    """Return whether `folder` has all of the objects, without asking the store."""
    try:
        return all((folder / item.key).stat().st_size == item.size for item in objects)
    except OSError:
        return False


def download_objects(
    store: Store, objects: Sequence[ManifestObject], folder: Path
) -> ManifestObject | None:
    """Download the objects that `folder` lacks; return the first that is not what it should be.

    Raises:
        StoreError: where the store fails or lacks one.
    """
    for item in objects:
        path = folder / item.key
        if path.exists() and path.stat().st_size == item.size:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        unverified = path.with_name(f"{path.name}.unverified")
        store.download(item.key, unverified)
        if describe_file(unverified, item.key) != item:
            unverified.unlink()
            return item
        unverified.replace(path)
    return None
