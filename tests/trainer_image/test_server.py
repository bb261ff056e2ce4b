"""The agent's HTTP port, asked over a real socket."""

from __future__ import annotations

from http.client import HTTPConnection

import pytest

from llmtrain_trainer.failures import StageError
from llmtrain_trainer.server import MAX_BODY_BYTES, Answer, Routes, serve_http


def echo(body: bytes) -> Answer:
    if body == b"bad":
        raise ValueError("that is bad")
    return Answer(body=body, content_type="text/plain")


ROUTES: Routes = {("GET", "/hello"): lambda _: Answer(body=b"hi"), ("POST", "/echo"): echo}


def test_routes_over_one_connection() -> None:
    with serve_http(ROUTES, host="127.0.0.1", port=0) as port:
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        for method, path, body, expected in (
            ("GET", "/hello?x=1", b"", (200, b"hi")),
            ("POST", "/echo", b"word", (200, b"word")),
            ("POST", "/echo", b"bad", (400, b"that is bad")),
            ("GET", "/echo", b"", (404, b"{}")),
            ("POST", "/echo", b"x" * (MAX_BODY_BYTES + 1), (413, b"{}")),
        ):
            connection.request(method, path, body)
            response = connection.getresponse()
            assert (response.status, response.read()) == expected
        connection.close()


def test_taken_port_is_named() -> None:
    with (
        serve_http(ROUTES, host="127.0.0.1", port=0) as port,
        pytest.raises(StageError, match=str(port)) as failed,
        serve_http(ROUTES, host="127.0.0.1", port=port),
    ):
        pass
    assert failed.value.reason == "PortUnavailable"
