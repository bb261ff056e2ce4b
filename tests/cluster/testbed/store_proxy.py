"""What stands between a trainer and its store, and cuts uploads or forgets conditions.

Below: `minio`. Above: the tests of torn writes. It hands every request on as it is, its Host
included, which signatures are made of.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from testbed.minio import MinioServer

CONDITION = "if-none-match"
HOP_HEADERS = frozenset({"connection", "transfer-encoding", "keep-alive"})
BODY_METHODS = frozenset({"PUT", "POST"})
ANSWER_SECONDS = 30


class StoreProxy:
    """A proxy of `server`, serving in threads until `close`."""

    def __init__(self, server: MinioServer) -> None:
        self.is_forgetful = False
        """Whether the condition of a conditional write is dropped, as some servers do."""
        self.on_put: Callable[[str, str], bool] | None = None
        """Called with a path and `before`, `middle` (of its body) or `after` (it was taken).

        Where it is true, nothing more goes either way."""
        self._target = (server.address, server.port)
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._make_handler())
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """Where it listens, as a URL."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def close(self) -> None:
        """Stop serving."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _tell(self, path: str, moment: str) -> None:
        if self.on_put is not None and self.on_put(path, moment):
            raise ConnectionAbortedError

    def _make_handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                try:
                    self.forward()
                except (OSError, http.client.HTTPException):
                    self.close_connection = True  # either side is gone, as it should be

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815

            def forward(self) -> None:
                path = self.path.partition("?")[0]
                is_put = self.command == "PUT"
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if is_put:
                    proxy._tell(path, "before")
                store = http.client.HTTPConnection(*proxy._target, timeout=ANSWER_SECONDS)
                with closing(store):
                    answer = self.send_on(store, path, body)
                    content = answer.read()
                if is_put:
                    proxy._tell(path, "after")
                self.send_response_only(answer.status, answer.reason)
                for name, value in answer.getheaders():
                    if name.lower() not in HOP_HEADERS | {"content-length"}:
                        self.send_header(name, value)
                length = len(content)
                if self.command == "HEAD":
                    length = int(answer.getheader("Content-Length") or 0)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(content)

            def send_on(
                self, store: http.client.HTTPConnection, path: str, body: bytes
            ) -> http.client.HTTPResponse:
                store.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if not (proxy.is_forgetful and name.lower() == CONDITION):
                        store.putheader(name, value)
                store.endheaders()
                half = len(body) // 2
                store.send(body[:half])
                if self.command == "PUT":
                    proxy._tell(path, "middle")
                store.send(body[half:])
                return store.getresponse()

            def log_message(self, *args: Any) -> None:
                return

        return Handler
