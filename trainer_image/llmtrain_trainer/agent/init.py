"""What the first process of a container owes it: orphans are reaped, signals are passed on.

Above: `__main__`, which calls this where it finds itself to be process 1. The agent then runs
as the only child of a process that does nothing else, so that no library of the agent (the
forkserver waits for its own children) loses an exit status to the reaper.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from llmtrain_trainer.linux import die_with_parent

FORWARDED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
SIGNAL_EXIT_CODE_BASE = 128


def run_as_init(main: Callable[[], int]) -> int:
    """Run `main` in a child, reap everything that is orphaned meanwhile, return its exit code.

    A child that a signal killed gives 128 plus the signal's number, as shells do.
    """
    # Blocked before the fork, so that a signal on the way to the child is held and not lost.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*FORWARDED_SIGNALS, signal.SIGCHLD})
    child = os.fork()
    if child == 0:
        die_with_parent()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        code = 1
        try:
            code = main()
        finally:
            os._exit(code)
    while True:
        received = signal.sigwait({*FORWARDED_SIGNALS, signal.SIGCHLD})
        if received != signal.SIGCHLD:
            os.kill(child, received)
        elif (status := _reap(child)) is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else SIGNAL_EXIT_CODE_BASE - code


def _reap(child: int) -> int | None:
    """Reap every process that has ended; return the wait status of `child` if it is among them."""
    child_status = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return child_status
        if pid == 0:
            return child_status
        if pid == child:
            child_status = status
