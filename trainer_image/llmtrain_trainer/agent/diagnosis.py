"""What an exception of the machine means: memory, a broken GPU, a full disk.

Below: `failures`, and what the operating system says of disks. Above: `rank_process` asks about
every exception that has no name of ours, `supervision` about ranks that the kernel killed. torch's
errors are known by name and text, since not every stage imports torch.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import tempfile
from pathlib import Path

from llmtrain_trainer.failures import (
    DeviceFaultError,
    DeviceMemoryError,
    NoSpaceError,
    OutOfMemoryError,
    StageError,
)

MIB = 2**20
SHARED_MEMORY = Path("/dev/shm")
MAX_QUOTE_CHARACTERS = 300

DEVICE_MEMORY_MARKS = ("cuda out of memory", "cuda error: out of memory", "hip out of memory")
"""How PyTorch's allocator and the CUDA runtime begin to say that a GPU's memory is full."""

HOST_MEMORY_MARKS = ("can't allocate memory", "cannot allocate memory")
"""The same of PyTorch's CPU allocator and of the operating system."""

FULL_DISK_MARK = "no space left on device"

DEVICE_FAULT_MARKS = (
    "uncorrectable ecc error",
    "uncorrectable nvlink error",
    "hardware stack error",
    "gpu memory over nvlink or a hardware error",
    "gpu is lost",
    "fallen off the bus",
    "device(s) is/are busy or unavailable",
    "cuda error: unknown error",
    "xid",
)
"""What the CUDA runtime and driver say where a GPU, and not the program, is at fault (CUDA runtime
API, cudaError: 214, 220, 714, 721, 226, 46, 999; Xid: NVIDIA's GPU Debug Guidelines)."""


def diagnose_error(error: BaseException) -> StageError | None:
    """Return the failure that an exception stands for, or None where it has no known meaning."""
    text = str(error).lower()
    if isinstance(error, RuntimeError):
        if any(mark in text for mark in DEVICE_FAULT_MARKS) and _is_of_device(error, text):
            return DeviceFaultError(
                _quote(error),
                reason="GPUFault",
                next_step="the node is avoided after a second fault; look at it (nvidia-smi -q, "
                "dmesg) and drain it",
            )
        if any(mark in text for mark in DEVICE_MEMORY_MARKS):
            return DeviceMemoryError(
                f"a GPU's memory ran out: {_quote(error)}",
                reason="DeviceOutOfMemory",
                next_step="lower training.microBatchSize, or use strategy: fsdp and more workers",
            )
    if isinstance(error, MemoryError) or any(mark in text for mark in HOST_MEMORY_MARKS):
        return explain_memory(f"memory ran out: {_quote(error)}".rstrip(": "))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return explain_full_disk(Path(os.fsdecode(error.filename or tempfile.gettempdir())))
    if FULL_DISK_MARK in text:  # as libraries that are not Python quote it
        return explain_full_disk(Path(tempfile.gettempdir()))
    return None


def diagnose_kill(exit_code: int) -> StageError | None:
    """Return what it means that the kernel ended a rank so, or None where it may mean anything.

    A page of a memory-mapped file that a full tmpfs cannot back is answered by SIGBUS.
    """
    return explain_full_disk(SHARED_MEMORY) if exit_code == -signal.SIGBUS else None


def explain_memory(message: str) -> OutOfMemoryError:
    """Return the failure of a worker whose memory is used up."""
    return OutOfMemoryError(
        message,
        reason="OutOfMemory",
        next_step="raise workers.resources.memory, or lower training.microBatchSize",
    )


def explain_full_disk(path: Path) -> NoSpaceError:
    """Return the failure of a file that could not be written for want of room."""
    folder = next((parent for parent in (path, *path.parents) if parent.exists()), Path("/"))
    usage = shutil.disk_usage(folder)
    advice = "free some of it, or give it more room"
    if path.is_relative_to(SHARED_MEMORY):
        advice = "raise workers.resources.sharedMemory"
    return NoSpaceError(
        f"no space is left for {path}: {usage.free // MIB} of {usage.total // MIB} MiB are free",
        reason="NoSpace",
        next_step=advice,
    )


def _is_of_device(error: RuntimeError, text: str) -> bool:
    return "cuda" in text or "nvidia" in text or type(error).__name__ == "AcceleratorError"


def _quote(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:MAX_QUOTE_CHARACTERS] if lines else ""
