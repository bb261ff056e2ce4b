"""What exceptions of the machine mean, by the words of torch, CUDA and the kernel."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llmtrain_api.records import ExitCode
from llmtrain_trainer.agent.diagnosis import diagnose_error, diagnose_kill
from testbed.fault_log import FaultWatch

TOUCH = """
import mmap, sys
file = open(sys.argv[1], "w+b")
file.truncate(mmap.PAGESIZE)
mapped = mmap.mmap(file.fileno(), mmap.PAGESIZE)
file.truncate(0)
mapped[0] = 1
"""


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (
            RuntimeError("CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors …"),
            ExitCode.DEVICE_FAULT,
            "GPUFault",
        ),
        (RuntimeError("NVIDIA driver: Xid 79, GPU has fallen off the bus"), 30, "GPUFault"),
        (RuntimeError("CUDA-capable device(s) is/are busy or unavailable"), 30, "GPUFault"),
        (torch.AcceleratorError("hardware stack error"), 30, "GPUFault"),
        # A program's own fault, even on a GPU.
        (RuntimeError("CUDA error: device-side assert triggered"), None, ""),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), None, ""),
        (RuntimeError("no xid here"), None, ""),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 29, None),
        (MemoryError(), ExitCode.OUT_OF_MEMORY, "OutOfMemory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            ExitCode.OUT_OF_MEMORY,
            "OutOfMemory",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), ExitCode.OUT_OF_MEMORY, "OutOfMemory"),
        (OSError(errno.ENOSPC, "No space left on device"), ExitCode.NO_SPACE, "NoSpace"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 31, "NoSpace"),
        (OSError(errno.EACCES, "Permission denied"), None, ""),
        (ValueError("x"), None, ""),
    ],
)  # fmt: skip
def test_exceptions_with_a_meaning(error: Exception, code: int | None, reason: str | None) -> None:
    found = diagnose_error(error)
    assert (found.code if found is not None else None) == code
    if found is not None:
        assert found.reason == (reason or "DeviceOutOfMemory")
        assert found.next_step


@pytest.mark.fault(19, world="ranks")
def test_a_full_disk_is_named_with_its_sizes(tmp_path: Path, fault: FaultWatch) -> None:
    path = tmp_path / "missing" / "part.bin"
    found = diagnose_error(OSError(errno.ENOSPC, "No space left on device", str(path)))
    assert found is not None
    assert found.message.startswith(f"no space is left for {path}: ")
    fault.said(found.message, " MiB are free")


def test_torch_s_own_words_for_too_little_memory() -> None:
    with pytest.raises(RuntimeError) as failed:
        torch.empty(2**62, dtype=torch.int8)
    found = diagnose_error(failed.value)
    assert found is not None
    assert found.reason == "OutOfMemory"


@pytest.mark.fault(19, world="ranks")
def test_a_page_that_cannot_be_backed_means_a_full_shared_memory(
    tmp_path: Path, fault: FaultWatch
) -> None:
    """The kernel answers with SIGBUS: seen here by touching a page beyond the end of a file."""
    touched = subprocess.run([sys.executable, "-c", TOUCH, str(tmp_path / "f")], check=False)
    assert touched.returncode == -signal.SIGBUS
    found = diagnose_kill(touched.returncode)
    assert found is not None
    assert found.reason == "NoSpace"
    fault.said(f"{found.reason}: {found.message}; {found.next_step}", "/dev/shm")
    assert found.next_step == "raise workers.resources.sharedMemory"
    assert diagnose_kill(-signal.SIGKILL) is None
