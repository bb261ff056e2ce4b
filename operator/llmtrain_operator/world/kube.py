"""The apiserver as a handful of requests over dictionaries.

Below: `kubernetes` for configuration and authentication, aiohttp for transport. Above: `watch`,
`cluster`, `lease`. Payloads stay dictionaries: typed models would drop fields newer than theirs.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from llmtrain_operator.metrics import API_REQUESTS

FIELD_MANAGER = "llmtrain-operator"
LIST_PAGE = 500
REQUEST_SECONDS = 30.0
SILENCE_SECONDS = 70.0
"""A watch that says nothing for so long is dead: bookmarks come about once a minute."""

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"


class ApiError(Exception):
    """The apiserver refused a request."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        """Hold the HTTP status, the reason (one CamelCase word) and what was said."""
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


class KubeClient:
    """Requests to one apiserver, so many at a time; watches do not count."""

    def __init__(
        self, server: str, open_session: Callable[[], aiohttp.ClientSession], *, requests: int
    ) -> None:
        """Talk to `server` (its URL) over a session of its own; `open_session` gives others."""
        self.server = server.rstrip("/")
        self.open_session = open_session
        self.session = open_session()
        self._slots = asyncio.Semaphore(requests)

    async def get(self, path: str, **parameters: str) -> dict[str, Any]:
        """Read an object, or one page of a list."""
        return await self._request("GET", path, parameters=parameters)

    async def list_all(self, path: str, **parameters: str) -> tuple[list[dict[str, Any]], str]:
        """Read a whole list in pages; returns its items and its resource version."""
        items: list[dict[str, Any]] = []
        query = {**parameters, "limit": str(LIST_PAGE)}
        while True:
            page = await self.get(path, **query)
            items += page["items"]
            if not (rest := page["metadata"].get("continue")):
                return items, page["metadata"]["resourceVersion"]
            query["continue"] = rest

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create an object in the collection `path`; returns it as stored."""
        parameters = {"fieldManager": FIELD_MANAGER}
        return await self._request("POST", path, parameters=parameters, body=body)

    async def apply(
        self, path: str, body: dict[str, Any], *, manager: str = FIELD_MANAGER, force: bool = True
    ) -> dict[str, Any]:
        """Apply an object on the server side: the fields given are the manager's, others are kept.

        Fields of another manager are taken by `force`; without it they are a conflict, 409.
        """
        parameters = {"fieldManager": manager, "force": str(force).lower()}
        return await self._request("PATCH", path, parameters=parameters, body=body, content=APPLY)

    async def replace(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Replace an object; 409 where its resource version is not the stored one."""
        parameters = {"fieldManager": FIELD_MANAGER}
        return await self._request("PUT", path, parameters=parameters, body=body)

    async def patch(self, path: str, operations: list[dict[str, Any]]) -> dict[str, Any]:
        """Change an object by JSON Patch (RFC 6902)."""
        parameters = {"fieldManager": FIELD_MANAGER}
        return await self._request(
            "PATCH", path, parameters=parameters, body=operations, content=JSON_PATCH
        )

    async def delete(self, path: str, options: dict[str, Any]) -> dict[str, Any]:
        """Delete an object; `options` are DeleteOptions."""
        return await self._request("DELETE", path, body=options)

    async def watch(self, path: str, **parameters: str) -> AsyncIterator[dict[str, Any]]:
        """Yield watch events until the server ends the watch or falls silent.

        Raises:
            ApiError: the server refused, or said so in an event: 410 asks for a new list.
        """
        query = {**parameters, "watch": "true", "allowWatchBookmarks": "true"}
        timeout = aiohttp.ClientTimeout(sock_connect=REQUEST_SECONDS, sock_read=SILENCE_SECONDS)
        async with self.session.get(self.server + path, params=query, timeout=timeout) as answer:
            if answer.status >= HTTPStatus.BAD_REQUEST:
                raise _read_error(answer.status, await answer.read())
            rest = b""
            try:
                async for chunk in answer.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            raise _describe_error(event["object"])
                        yield event
            except aiohttp.SocketTimeoutError:
                return

    async def _request(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, str] | None = None,
        body: object = None,
        content: str = JSON,
    ) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        async with (
            self._slots,
            self.session.request(
                method,
                self.server + path,
                params=parameters,
                data=data,
                headers={"Content-Type": content, "Accept": JSON},
                timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
            ) as answer,
        ):
            payload = await answer.read()
        API_REQUESTS.labels(method, str(answer.status)).inc()
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise _read_error(answer.status, payload)
        decoded: dict[str, Any] = json.loads(payload)
        return decoded


@asynccontextmanager
async def open_client(*, requests: int) -> AsyncIterator[KubeClient]:
    """Connect to the cluster that `KUBECONFIG`, the pod's service account or ~/.kube names."""
    configuration = Configuration()
    if "KUBECONFIG" not in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ:
        config.load_incluster_config(client_configuration=configuration)
    else:
        # Named here, since kubernetes reads the variable only once, when it is imported.
        file = os.environ.get("KUBECONFIG")
        await config.load_kube_config(config_file=file, client_configuration=configuration)
    client = KubeClient(configuration.host, lambda: _open_session(configuration), requests=requests)
    async with client.session:
        yield client


def _open_session(configuration: Configuration) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        # Watches hold connections for ever; what is bounded is the requests at work.
        connector=aiohttp.TCPConnector(limit=0, ssl=_build_ssl(configuration)),
        middlewares=[_make_authorizer(configuration)],
        # Without this, a proxy of the machine's environment would be asked for cluster addresses.
        trust_env=False,
    )


def _build_ssl(configuration: Configuration) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


Handler = Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]


def _make_authorizer(
    configuration: Configuration,
) -> Callable[[aiohttp.ClientRequest, Handler], Awaitable[aiohttp.ClientResponse]]:
    async def authorize(request: aiohttp.ClientRequest, send: Handler) -> aiohttp.ClientResponse:
        # Asked for each request: tokens rotate, and the configuration reads them anew.
        token = await configuration.get_api_key_with_prefix("BearerToken")
        if token:
            request.headers["Authorization"] = token
        return await send(request)

    return authorize


def _read_error(status: int, payload: bytes) -> ApiError:
    try:
        return _describe_error(json.loads(payload))
    except (ValueError, KeyError, TypeError):
        return ApiError(status, HTTPStatus(status).phrase, payload.decode(errors="replace"))


def _describe_error(answer: dict[str, Any]) -> ApiError:
    return ApiError(answer["code"], answer.get("reason", ""), answer.get("message", ""))


def has_fields(present: Any, wanted: Any) -> bool:
    """Return whether an object has all that is wanted. It may have more: what the server adds."""
    if isinstance(wanted, dict) and isinstance(present, dict):
        return all(k in present and has_fields(present[k], wanted[k]) for k in wanted)
    if isinstance(wanted, list) and isinstance(present, list):
        same = len(present) == len(wanted)
        return same and all(has_fields(p, w) for p, w in zip(present, wanted, strict=True))
    return bool(present == wanted)
