"""What the kernel is asked for: killing orphans, counting memory kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from llmtrain_trainer.linux import count_memory_kills, read_memory_bytes

FORK_TWICE = """
import os, sys, time
from llmtrain_trainer.linux import die_with_parent
if os.fork() == 0:
    die_with_parent()
    print("ready", flush=True)
    time.sleep(60)
time.sleep(60)
"""


TOUCH_AGAIN = """
import mmap, resource
from llmtrain_trainer.linux import keep_freed_memory
keep_freed_memory()
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pieces = [bytearray(24 << 20) for _ in range(4)]
    for piece in pieces:
        piece[:: mmap.PAGESIZE] = bytes(len(piece) // mmap.PAGESIZE)
    del pieces
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_memory_that_was_freed_costs_no_page_faults_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TOUCH_AGAIN],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    faults = [int(word) for word in done.stdout.split()]
    assert faults[-1] < faults[0] / 10


def test_child_dies_with_its_parent() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", FORK_TWICE],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        parent.send_signal(signal.SIGKILL)
        # The child holds the pipe open for as long as it lives.
        assert parent.stdout.read() == b""


def test_memory_kills_are_read_where_the_cgroup_says(tmp_path: Path) -> None:
    file = tmp_path / "memory.events"
    assert count_memory_kills(file) == 0
    file.write_text("low 0\noom 4\noom_kill 3\noom_group_kill 1\n")
    assert count_memory_kills(file) == 3


def test_figures_of_memory_are_read_where_there_are_any(tmp_path: Path) -> None:
    (tmp_path / "memory.peak").write_text("4096\n")
    (tmp_path / "memory.max").write_text("max\n")
    figures = [read_memory_bytes(name, tmp_path) for name in ("peak", "max", "none")]
    assert figures == [4096, None, None]
