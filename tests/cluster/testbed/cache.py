"""Where the test bed keeps what it builds and downloads.

Below everything else here: nothing in the checkout is ever written. Each entry is named after its
content or version, so that two checkouts share one cache and a change never meets a stale entry.
"""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock


def cache_directory() -> Path:
    """``$LLMTRAIN_CACHE``, else ``llmtrain`` in the user's cache folder; created where absent."""
    chosen = os.environ.get("LLMTRAIN_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(chosen) if chosen else Path(base) / "llmtrain"
    directory.mkdir(parents=True, exist_ok=True)
    return directory.resolve()


def lock_cache(name: str) -> FileLock:
    """A lock ``name`` between processes that use the cache; it falls when its holder dies."""
    locks = cache_directory() / "locks"
    locks.mkdir(exist_ok=True)
    return FileLock(locks / f"{name}.lock")
