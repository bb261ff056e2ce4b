"""The one HTTP port of an agent: a table of paths, each answered by a function.

Below: the standard library's threading server, because it starts in milliseconds and a pod has
few callers. Above: `agent` gives it /healthz, /progress, /metrics and, on worker 0, /rendezvous.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from llmtrain_trainer.failures import StageError

MAX_BODY_BYTES = 64 * 1024
CONNECTION_IDLE_SECONDS = 60.0
"""A caller that sends nothing for so long loses its connection."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response that succeeded."""

    body: bytes
    content_type: str = "application/json"


Routes = Mapping[tuple[str, str], Callable[[bytes], Answer]]
"""(method, path) → function from the request's body to the answer. ValueError: a bad request."""


@contextmanager
def serve_http(routes: Routes, *, host: str, port: int) -> Iterator[int]:
    """Answer requests in threads for the length of the block; give the port (0 takes a free one).

    Raises:
        StageError: the port is taken.
    """

    class Handler(_Handler):
        """Knows the routes of this server."""

    Handler.routes = routes
    try:
        server = _Server((host, port), Handler)
    except OSError as error:
        raise StageError(
            f"the agent cannot listen on {host}:{port}: {error.strerror}",
            reason="PortUnavailable",
            next_step="stop what listens there",
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="http", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A thousand workers may knock in the same instant.
    request_queue_size = 1024

    def handle_error(self, request: object, client_address: object) -> None:
        logger.debug("request of %s failed", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    routes: ClassVar[Routes] = {}
    protocol_version = "HTTP/1.1"
    timeout = CONNECTION_IDLE_SECONDS
    # Without it the end of a small answer waits for the caller's delayed acknowledgement.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > MAX_BODY_BYTES:
            self.close_connection = True
            self._send(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, Answer(body=b"{}"))
            return
        body = self.rfile.read(length)
        route = self.routes.get((self.command, self.path.partition("?")[0]))
        if route is None:
            self._send(HTTPStatus.NOT_FOUND, Answer(body=b"{}"))
            return
        try:
            answer = route(body)
        except ValueError as error:
            text = str(error).encode()
            self._send(HTTPStatus.BAD_REQUEST, Answer(body=text, content_type="text/plain"))
            return
        self._send(HTTPStatus.OK, answer)

    def _send(self, status: HTTPStatus, answer: Answer) -> None:
        self.send_response(status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *words: object) -> None:
        logger.debug("%s", words)
