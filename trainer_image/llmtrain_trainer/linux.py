"""What Python lacks of Linux: ending with the parent process, memory kills, usable cores.

Below: the C library. Above: `init`, `rank_process`, `agent`, `parallel`, `prepare`, `train`.
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

PR_SET_PDEATHSIG = 1
MEMORY_FOLDER = Path("/sys/fs/cgroup")
MEMORY_EVENTS_FILE = MEMORY_FOLDER / "memory.events"

CPU_QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES, KEPT_PIECE_BYTES = 2**31 - 1, 2**25
"""Free memory at the end of the heap, and the size of a piece, from which on glibc returns it. With
larger pieces the heap would fall to pieces: logits are the largest of them, and come and go."""


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that forked it ends (prctl(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def keep_freed_memory() -> None:
    """Have this process keep the memory that it frees, for its next step (mallopt(3)).

    By default glibc returns tensors of megabytes to the kernel, which clears every page of them
    anew for the next step: a tenth of a training step on CPUs. Other C libraries are left alone.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(M_MMAP_THRESHOLD, KEPT_PIECE_BYTES)
        set_option(M_TRIM_THRESHOLD, KEPT_BYTES)


def count_memory_kills(file: Path = MEMORY_EVENTS_FILE) -> int:
    """Return how many processes of this cgroup the kernel has killed for their memory.

    0 where the cgroup does not say, as outside containers.
    """
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    counts = dict(line.split() for line in lines)
    return int(counts.get("oom_kill", 0))


def read_memory_bytes(name: str, folder: Path = MEMORY_FOLDER) -> int | None:
    """Return a figure of this cgroup's memory: `max` is its limit, `peak` the most it has held.

    None where there is none, as outside containers.
    """
    try:
        return int((folder / f"memory.{name}").read_text())
    except (OSError, ValueError):  # "max" stands for no limit
        return None


def count_usable_cores(quota_file: Path = CPU_QUOTA_FILE) -> int:
    """Return the cores that this process may use: its affinity, within its cgroup's quota."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = quota_file.read_text().split()
    except (OSError, ValueError):
        return cores
    if quota == "max":
        return cores
    return max(1, min(cores, int(quota) // int(period)))
