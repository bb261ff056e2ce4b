"""Become another program that holds a lock file while it lives and is stopped with its parent.

    python tether.py LOCK_FILE PARENT_PID COMMAND...

Below: the operating system. Above: `processes` starts every agent of a local run this way.
The lock tells a later `llmtrain run` whether the process still lives, where a process id could
belong to another program by then. On Linux the kernel sends SIGTERM when the parent dies, even
by SIGKILL, so an agent never outlives its run; elsewhere the next run stops it by the lock.
The order matters: a process that passes the last check holds the lock and has asked the kernel.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that the calling process gets when its parent dies."""


def main(lock_path: str, parent: int, command: list[str]) -> None:
    """Take the lock, tie this process to its parent, and run the command in its place."""
    descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    os.set_inheritable(descriptor, True)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit("the run that started this process is gone")
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
