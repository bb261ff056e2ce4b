from __future__ import annotations

from pathlib import Path

import pytest

from testbed.processes import ServerProcess, wait_until


def test_a_server_that_ends_is_reported_with_its_log(tmp_path: Path) -> None:
    server = ServerProcess("probe", ["sh", "-c", "echo no such disk; exit 1"], log=tmp_path / "log")
    server.start()
    with pytest.raises(RuntimeError, match=r"probe ended while it started\n.*\nno such disk"):
        server.wait_ready(lambda: False, seconds=10)


def test_a_server_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "trap '' TERM; echo deaf; while :; do sleep 0.1; done"
    server = ServerProcess("probe", ["sh", "-c", script], log=log)
    server.start()
    server.wait_ready(lambda: "deaf" in log.read_text(), seconds=10)
    server.stop(grace_seconds=0.1)
    assert not server.running


def test_a_condition_that_never_holds_is_named() -> None:
    with pytest.raises(TimeoutError, match="waited 0 s for the moon"):
        wait_until(lambda: False, seconds=0, what="the moon")
