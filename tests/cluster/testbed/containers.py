"""The processes inside a pod, seen and killed from the machine that the nodes run on.

Below: /proc, where every container's processes show, whatever namespace they are in. Above: the
end-to-end test, which takes processes away as a kernel short of memory would.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

RANK_COMMAND = "multiprocessing.forkserver"


def list_processes(pod: dict[str, Any]) -> dict[int, str]:
    """Return the command of each process of a pod by process id, the oldest first."""
    name = f"pod{pod['metadata']['uid']}"
    commands = {}
    for pid in sorted(int(path.name) for path in Path("/proc").glob("[0-9]*")):
        try:
            if name in Path(f"/proc/{pid}/cgroup").read_text():
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                commands[pid] = command.replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
    return commands


def list_ranks(pod: dict[str, Any]) -> list[int]:
    """Return the process ids of a worker's ranks: what its forkserver has forked."""
    forked = {pid for pid, command in list_processes(pod).items() if RANK_COMMAND in command}
    return sorted(pid for pid in forked if _find_parent(pid) in forked)


def kill_main_process(pod: dict[str, Any], command: str) -> bool:
    """Kill the oldest process whose command holds `command`; False where there is none.

    In a container that is process 1, whose end is the container's.
    """
    found = [pid for pid, of_process in list_processes(pod).items() if command in of_process]
    return bool(found) and kill_process(found[0])


def kill_process(pid: int) -> bool:
    """SIGKILL a process; False where it is gone already."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _find_parent(pid: int) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return next(int(line.split()[1]) for line in lines if line.startswith("PPid:"))
