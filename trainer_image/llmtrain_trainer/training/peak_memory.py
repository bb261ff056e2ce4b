"""The most memory that something takes on a rank's device.

Below: torch on GPUs, else the kernel's count of this process's pages. Above: `trial` and
`micro_batch`.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import torch

KIBIBYTE = 1024
FORGET_PEAK = "5"
"""Written to /proc/self/clear_refs it sets the peak back to what is resident now (proc(5))."""


def begin_peak(device: torch.device) -> int:
    """Forget the highest memory so far; return what is used now, in bytes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text(FORGET_PEAK)
    return read_peak(device)


def read_peak(device: torch.device) -> int:
    """Return the highest memory since `begin_peak`, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kibibytes = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    assert kibibytes is not None
    return int(kibibytes[1]) * KIBIBYTE


def return_free_memory(device: torch.device) -> None:
    """Give back what is kept for later: blocks of a GPU, or glibc's heap (malloc_trim(3))."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
    if trim is not None:
        trim(0)
