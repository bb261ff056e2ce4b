"""Process 1 of a container, in a process namespace of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

NAMESPACE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]

PROGRAM = """
import os, signal, sys, time
from llmtrain_trainer.agent.init import run_as_init

def main():
    assert os.getpid() != 1
    if sys.argv[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[1] == "signal":
        signal.signal(signal.SIGTERM, lambda *_: os._exit(26))
        print("ready", flush=True)
        time.sleep(60)
    return 7

assert os.getpid() == 1
sys.exit(run_as_init(main))
"""

ORPHANS = """
import os, sys, time
from llmtrain_trainer.agent.init import run_as_init

def main():
    reader, writer = os.pipe()
    if os.fork() == 0:
        grandchild = os.fork()
        if grandchild == 0:
            while os.getppid() != 1:
                time.sleep(0.01)
            os._exit(0)
        os.write(writer, str(grandchild).encode())
        os._exit(0)
    os.wait()
    grandchild = int(os.read(reader, 100))
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(grandchild, 0)
        except ProcessLookupError:
            return 0
        time.sleep(0.01)
    return 1

sys.exit(run_as_init(main))
"""


def start(program: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*NAMESPACE, sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.fixture(scope="module", autouse=True)
def namespaces() -> None:
    if subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine gives users no process namespaces")


@pytest.mark.parametrize(("how", "code"), [("return", 7), ("killed", 137)])
def test_exit_code_is_the_childs(how: str, code: int) -> None:
    with start(PROGRAM, how) as process:
        assert process.wait(timeout=60) == code


def test_orphans_are_reaped() -> None:
    with start(ORPHANS) as process:
        assert process.wait(timeout=60) == 0


def test_sigterm_reaches_the_child() -> None:
    with start(PROGRAM, "signal") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        (init,) = find_children(process.pid)
        os.kill(init, signal.SIGTERM)
        assert process.wait(timeout=60) == 26


def find_children(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in children.split()]
