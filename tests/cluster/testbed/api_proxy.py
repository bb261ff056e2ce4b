"""What stands between an operator and its apiserver, and breaks their talk as networks do.

Below: `control_plane`. Above: the tests of faults. Three patterns of Sieve (Sun et al., OSDI 2022):
a client that dies between a write and its answer, a watch that tells nothing, answers that are
errors. It serves in a thread, without TLS, and speaks to the apiserver as its administrator.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path

import aiohttp
import yaml
from aiohttp import web

from testbed.control_plane import ControlPlane
from testbed.processes import find_free_port

START_SECONDS = 30
WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
HOP_HEADERS = frozenset({"host", "connection", "transfer-encoding", "content-length"})
LEASES = "/leases"


class ApiProxy:
    """A proxy that a kubeconfig at `kubeconfig` leads to."""

    def __init__(self, server: ControlPlane, directory: Path) -> None:
        self._url = server.url
        self._ssl = server.administrator_ssl
        self._port = find_free_port()
        self.kubeconfig = directory / "proxy.kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(_describe(f"http://127.0.0.1:{self._port}")))
        self.refusal: HTTPStatus | None = None
        """What every request is answered with, where it is set."""
        self.expires_watches = False
        """Whether every new watch is told that its version is gone, as after a long absence."""
        self.on_write: Callable[[str, str], None] | None = None
        """Called with method and path after the apiserver took a write, before the answer goes."""
        self.num_refused = 0
        self.num_watches = 0
        self._last_silent = 0
        self._watches: list[web.Request] = []
        self._is_serving = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def start(self) -> None:
        """Start to serve."""
        self._thread.start()
        assert self._is_serving.wait(START_SECONDS)

    def stop(self) -> None:
        """Stop serving."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def silence_watches(self) -> None:
        """Let the watches that there are stay open and tell nothing more, as a lost route does."""
        self._last_silent = self.num_watches

    def end_watches(self) -> None:
        """Break off the watches that there are."""
        self._loop.call_soon_threadsafe(self._break_off)

    def _break_off(self) -> None:
        for request in list(self._watches):
            if request.transport is not None:
                request.transport.close()

    def _serve(self) -> None:
        asyncio.run(self._work())

    async def _work(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        timeout = aiohttp.ClientTimeout(total=None)
        connector = aiohttp.TCPConnector(ssl=self._ssl, limit=0)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False
        ) as self._session:
            application = web.Application(client_max_size=2**26)
            application.router.add_route("*", "/{path:.*}", self._answer)
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self._port).start()
            self._is_serving.set()
            await self._over.wait()
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        is_watch = request.query.get("watch") in {"true", "1"}
        if self.refusal is not None:
            self.num_refused += 1
            return web.json_response(_refuse(self.refusal), status=self.refusal)
        if is_watch and self.expires_watches:
            event = {"type": "ERROR", "object": _refuse(HTTPStatus.GONE)}
            return web.Response(text=json.dumps(event) + "\n", content_type="application/json")
        if is_watch:
            self.num_watches += 1
        number = self.num_watches
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP_HEADERS}
        async with self._session.request(
            request.method,
            f"{self._url}{request.path_qs}",
            headers=headers,
            data=await request.read() or None,
        ) as answer:
            if not is_watch:
                body = await answer.read()
                is_write = request.method in WRITES and LEASES not in request.path
                if is_write and self.on_write is not None and answer.ok:
                    self.on_write(request.method, request.path)
                return web.Response(
                    status=answer.status, body=body, headers=_keep_headers(answer.headers)
                )
            response = web.StreamResponse(
                status=answer.status, headers=_keep_headers(answer.headers)
            )
            self._watches.append(request)
            try:
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    if number > self._last_silent:
                        await response.write(chunk)
            except ConnectionResetError:  # whoever watched is gone
                pass
            finally:
                self._watches.remove(request)
            return response


def _keep_headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in headers.items() if k.lower() not in HOP_HEADERS}


def _refuse(status: HTTPStatus) -> dict[str, object]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": f"the test answers {status.value}",
        "reason": status.phrase.replace(" ", ""),
        "code": status.value,
    }


def _describe(url: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "proxy", "cluster": {"server": url}}],
        "users": [{"name": "proxy", "user": {}}],
        "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
        "current-context": "proxy",
    }
