"""A proxy before an object store that strikes at a chosen moment of a chosen upload.

Below: sockets. Above: the tests of torn writes, which kill ranks, uploaders or the store itself.
"""

from __future__ import annotations

import re
import socket
import socketserver
import threading
from collections.abc import Callable
from enum import StrEnum

CHUNK_BYTES = 65_536
ANSWER_SECONDS = 30.0
CONDITION = re.compile(rb"if-none-match: [^\r]*\r\n", re.IGNORECASE)
LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)


class Moment(StrEnum):
    """When, within an upload, to strike."""

    MIDDLE = "middle"
    """Half of the object has been sent."""
    END = "end"
    """The store has it, and the client does not know yet."""


class Interceptor:
    """Forwards everything to a store; `arm` makes it strike once."""

    def __init__(self, address: str, port: int) -> None:
        """Listen on a free port, before the store at `address`:`port`."""
        self.struck = threading.Event()
        self.forgets_conditions = False
        """Whether conditional writes lose their condition, as some servers ignore it."""
        self._lock = threading.Lock()
        self._upstream = (address, port)
        self._countdown: int | None = None
        self._moment = Moment.MIDDLE
        self._strike: Callable[[], None] = lambda: None
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                outer._forward(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def arm(self, number: int, moment: Moment, strike: Callable[[], None]) -> None:
        """Call `strike` at that moment of the `number`-th PUT from now on."""
        with self._lock:
            self.struck.clear()
            self._countdown, self._moment, self._strike = number, moment, strike

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _is_chosen(self, chunk: bytes) -> bool:
        """Whether a chunk begins the request that is struck at. Bodies are sent apart."""
        if not chunk.startswith(b"PUT "):
            return False
        with self._lock:
            if self._countdown is None:
                return False
            self._countdown -= 1
            if self._countdown:
                return False
            self._countdown = None
            return True

    def _forward(self, client: socket.socket) -> None:
        try:
            with socket.create_connection(self._upstream) as upstream:
                silent, answered = threading.Event(), threading.Event()
                back = threading.Thread(
                    target=_copy, args=(upstream, client, silent, answered), daemon=True
                )
                back.start()
                while chunk := client.recv(CHUNK_BYTES):
                    if self.forgets_conditions:
                        chunk = CONDITION.sub(b"", chunk)
                    if self._is_chosen(chunk):
                        silent.set()
                        self._send_until_then(chunk, client, upstream, answered)
                        self._strike()
                        self.struck.set()
                        return
                    upstream.sendall(chunk)
                upstream.shutdown(socket.SHUT_RDWR)
                back.join()
        except OSError:
            return

    def _send_until_then(
        self,
        head: bytes,
        client: socket.socket,
        upstream: socket.socket,
        answered: threading.Event,
    ) -> None:
        head, separator, body = head.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        assert length is not None
        left = int(length[1]) // (2 if self._moment is Moment.MIDDLE else 1)
        upstream.sendall(head + separator + body[:left])
        left -= len(body)
        while left > 0 and (chunk := client.recv(min(left, CHUNK_BYTES))):
            upstream.sendall(chunk)
            left -= len(chunk)
        if self._moment is Moment.END:
            answered.wait(ANSWER_SECONDS)


def _copy(
    upstream: socket.socket,
    client: socket.socket,
    silent: threading.Event,
    answered: threading.Event,
) -> None:
    """Copy answers to the client, until it shall hear none any more."""
    try:
        while chunk := upstream.recv(CHUNK_BYTES):
            if silent.is_set():
                answered.set()
                return
            client.sendall(chunk)
    except OSError:
        return
