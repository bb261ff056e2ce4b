"""Server processes: started with a log file, awaited by polling, stopped, never left behind.

Below `control_plane`, `minio`, `node` and every other server of the test bed. A server dies with
the thread that started it, even where that is killed and can clean up nothing: the kernel sees to
it (``PR_SET_PDEATHSIG``, by util-linux's ``setpriv``). So start servers from the main thread.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

POLL_SECONDS = 0.05
LOG_TAIL_CHARACTERS = 3000
LISTENING_PORTS = range(10_000, 20_000)
"""Below what Linux and IANA give to outgoing connections (32,768 and 49,152 on), and beside those
of agents.
"""


def wait_until(
    condition: Callable[[], bool], *, seconds: float, what: str, poll_seconds: float = POLL_SECONDS
) -> None:
    """Poll ``condition`` until it holds.

    Raises:
        TimeoutError: it did not hold within ``seconds``; the message says ``what`` was awaited.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(poll_seconds)


def find_free_port(address: str = "127.0.0.1") -> int:
    """A TCP port that nobody listened on at ``address`` a moment ago.

    It is below those that the kernel gives to outgoing connections, so that none of these takes it
    while a server is down that comes back at the same address.
    """
    while True:
        port = random.choice(LISTENING_PORTS)
        with socket.socket() as listener, suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            return port


def accepts_connections(address: str, port: int) -> bool:
    """Whether a server takes TCP connections at ``address``:``port``."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex((address, port)) == 0


def is_alive(pid: int) -> bool:
    """Whether a process is there and has not ended; an orphan may stay unreaped where it has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


class ServerProcess:
    """A server: its command, its log and, while it runs, its process.

    ``start`` after ``stop`` or ``kill`` runs the same command again and appends to the same log.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._command = [str(part) for part in command]
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; the server must be started."""
        assert self._process is not None, f"{self.name} is not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the command, in a session of its own, so that Ctrl-C reaches only the tests."""
        assert not self.running, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | self._environment,
            )

    def wait_ready(self, ready: Callable[[], bool], *, seconds: float) -> None:
        """Poll ``ready`` until it holds.

        Raises:
            RuntimeError: the server ended, or was not ready in time; with the end of its log.
        """
        try:
            wait_until(lambda: not self.running or ready(), seconds=seconds, what=self.name)
        except TimeoutError as error:
            raise RuntimeError(f"{self.name} is not ready: {error}\n{self.tail_log()}") from error
        if not self.running:
            raise RuntimeError(f"{self.name} ended while it started\n{self.tail_log()}")

    def stop(self, *, grace_seconds: float = 10) -> None:
        """SIGTERM, then SIGKILL after ``grace_seconds``; nothing where it does not run."""
        self.signal(signal.SIGTERM)
        if self._process is not None:
            try:
                self._process.wait(grace_seconds)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """SIGKILL to the server and what it started in its process group."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def wait(self, *, seconds: float) -> int:
        """Wait for the server's own end; returns its exit code, negative for a signal.

        Raises:
            TimeoutError: it did not end; with the end of its log.
        """
        assert self._process is not None, f"{self.name} is not started"
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"{self.name} has not ended\n{self.tail_log()}") from error

    def tail_log(self) -> str:
        """The end of the log, for messages about a server that failed."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return f"--- end of {self.log} ---\n{text[-LOG_TAIL_CHARACTERS:]}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and what it started; nothing where it does not run."""
        if self.running:
            os.killpg(self.pid, number)
