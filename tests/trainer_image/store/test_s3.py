"""How an S3 store fails and recovers, with a real server that is broken on purpose."""

from __future__ import annotations

import math
import pickle
import secrets
import shutil
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import urllib3
from minio.error import S3Error

from llmtrain_api.records import ExitCode
from llmtrain_api.run import StorageConfig
from llmtrain_trainer.failures import StoreError
from llmtrain_trainer.store import (
    AccessDeniedError,
    BucketMissingError,
    CredentialsMissingError,
    ObjectMissingError,
    StorageUnreachableError,
    open_store,
)
from llmtrain_trainer.store.parts import PartsUploader
from llmtrain_trainer.store.s3 import S3Store
from testbed.certificates import CertificateAuthority
from testbed.minio import MinioServer
from testbed.processes import find_free_port

SMALL_PART_BYTES = 5 * 1024 * 1024
"""The smallest that S3 takes for any part but the last."""

MAX_UNREACHABLE_SECONDS = 20
"""Twice what the store promises: a bound on being stuck, not a measurement."""


@pytest.fixture
def bucket(minio: MinioServer) -> str:
    name = f"s3-{secrets.token_hex(4)}"
    minio.create_bucket(name)
    return name


def configure(server: MinioServer, folder: Path, bucket: str, **fields: Any) -> StorageConfig:
    """Write the server's credentials to `folder`, and say how it is reached."""
    folder.mkdir(exist_ok=True)
    (folder / "accessKey").write_text(server.access_key)
    (folder / "secretKey").write_text(server.secret_key)
    return StorageConfig(
        uri=f"s3://{bucket}",
        **{"endpoint": server.endpoint, "credentials_directory": str(folder), **fields},
    )


def test_missing_bucket_is_named(minio: MinioServer, tmp_path: Path) -> None:
    store = open_store("s3://no-such-bucket/a", configure(minio, tmp_path / "keys", "unused"))
    for use in (
        store.check,
        lambda: list(store.list_objects()),
        lambda: store.read_bytes("key"),
        lambda: store.write_bytes("key", b""),
        lambda: store.create_bytes("key", b""),
    ):
        with pytest.raises(BucketMissingError) as failed:
            use()
        assert failed.value.message == f"bucket no-such-bucket does not exist at {minio.endpoint}"
        assert failed.value.code is ExitCode.STORAGE


def test_wrong_and_missing_credentials_are_named(
    minio: MinioServer, bucket: str, tmp_path: Path
) -> None:
    config = configure(minio, tmp_path / "keys", bucket)
    store = open_store(config.uri, config)
    store.check()
    (tmp_path / "keys/secretKey").write_text("wrong")
    for use in (store.check, lambda: store.write_bytes("key", b"")):
        with pytest.raises(AccessDeniedError, match="SignatureDoesNotMatch"):
            use()
    with pytest.raises(AccessDeniedError, match=r"refuses access to s3://s3-.*/key"):
        store.find_object("key")
    (tmp_path / "keys/secretKey").write_text("\n")
    with pytest.raises(CredentialsMissingError, match="it is empty"):
        open_store(config.uri, config)
    (tmp_path / "keys/secretKey").unlink()
    with pytest.raises(CredentialsMissingError, match=r"no file .*/keys/secretKey"):
        open_store(config.uri, config)
    anonymous = config.model_copy(update={"credentials_directory": None})
    with pytest.raises(AccessDeniedError, match="AccessDenied"):
        open_store(config.uri, anonymous).check()


def test_rotated_credentials_are_read_anew(minio: MinioServer, bucket: str, tmp_path: Path) -> None:
    config = configure(minio, tmp_path / "keys", bucket)
    (tmp_path / "keys/accessKey").write_text("retired")
    store = open_store(config.uri, config)
    with pytest.raises(AccessDeniedError, match="InvalidAccessKeyId"):
        store.check()
    (tmp_path / "keys/accessKey").write_text(minio.access_key)
    store.check()


def test_refused_connections_fail_soon(minio: MinioServer, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{find_free_port('127.0.0.1')}"
    config = configure(minio, tmp_path / "keys", "bucket", endpoint=endpoint)
    assert_unreachable(config, endpoint)


def test_silent_addresses_fail_soon(minio: MinioServer, tmp_path: Path) -> None:
    # A full backlog drops further connections, as a host that is gone does.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            endpoint = f"http://127.0.0.1:{port}"
            config = configure(minio, tmp_path / "keys", "bucket", endpoint=endpoint)
            assert_unreachable(config, endpoint)


def test_servers_that_never_answer_fail_soon(minio: MinioServer, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = configure(minio, tmp_path / "keys", "bucket", endpoint=endpoint)
        assert_unreachable(config, endpoint)


def assert_unreachable(config: StorageConfig, endpoint: str) -> None:
    store = open_store(config.uri, config)
    started = time.monotonic()
    with pytest.raises(StorageUnreachableError, match=endpoint) as failed:
        store.check()
    assert time.monotonic() - started < MAX_UNREACHABLE_SECONDS
    assert failed.value.next_step
    again = pickle.loads(pickle.dumps(failed.value))  # it crosses from a rank to its agent
    assert (type(again), again.message) == (StorageUnreachableError, failed.value.message)


def test_other_servers_are_told_from_s3(minio: MinioServer, tmp_path: Path) -> None:
    with answer_always(200, b"<html><body>console</body></html>") as endpoint:
        config = configure(minio, tmp_path / "keys", "bucket", endpoint=endpoint)
        with pytest.raises(StorageUnreachableError, match="is no S3 server") as failed:
            open_store(config.uri, config).check()
    assert "spec.storage.endpoint" in failed.value.next_step


@pytest.mark.parametrize("body", [b"", b"<html><body>Forbidden</body></html>", b"Forbidden"])
def test_refusals_of_a_proxy_have_a_name(minio: MinioServer, tmp_path: Path, body: bytes) -> None:
    with answer_always(403, body) as endpoint:
        config = configure(minio, tmp_path / "keys", "bucket", endpoint=endpoint)
        store = open_store(config.uri, config)
        for use in (store.check, lambda: store.create_bytes("key", b"")):
            with pytest.raises(StoreError, match="403"):
                use()


@contextmanager
def answer_always(status: int, body: bytes) -> Iterator[str]:
    """Serve one answer of HTML to every request, as a proxy or a console does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_PUT(self) -> None:
            self.do_GET()

        def log_request(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_store_works_again_when_its_server_does(tmp_path: Path) -> None:
    server = MinioServer(tmp_path / "minio")
    server.start()
    try:
        server.create_bucket("bucket")
        config = configure(server, tmp_path / "keys", "bucket")
        store = open_store(config.uri, config)
        store.write_bytes("key", b"data")
        server.kill()
        with pytest.raises(StorageUnreachableError):
            store.read_bytes("key")
        server.start()
        assert store.read_bytes("key") == b"data"
    finally:
        server.stop()


def test_parts_are_sent_again_when_their_connection_breaks(
    minio: MinioServer, bucket: str, tmp_path: Path
) -> None:
    data = secrets.token_bytes(3 * SMALL_PART_BYTES)
    direct = configure(minio, tmp_path / "keys", bucket)
    with cut_connections(minio, after_bytes=SMALL_PART_BYTES, of="requests", times=2) as (
        endpoint,
        counts,
    ):
        uploader = open_parts(direct.model_copy(update={"endpoint": endpoint}), bucket)
        uploader.put("key", memoryview(data), part_bytes=SMALL_PART_BYTES)
    assert open_store(direct.uri, direct).read_bytes("key") == data
    assert counts["cut"] == 2


def test_a_slow_connection_is_given_time(minio: MinioServer, bucket: str, tmp_path: Path) -> None:
    """More than connecting may take, for one part."""
    data = secrets.token_bytes(3 * SMALL_PART_BYTES)
    direct = configure(minio, tmp_path / "keys", bucket)
    with cut_connections(minio, after_bytes=0, times=0, of="requests", pause=0.02) as (
        endpoint,
        counts,
    ):
        uploader = open_parts(direct.model_copy(update={"endpoint": endpoint}), bucket)
        uploader.put("key", memoryview(data))
    assert counts["opened"] == 1
    assert open_store(direct.uri, direct).read_bytes("key") == data


def test_failed_upload_leaves_no_parts(minio: MinioServer, bucket: str, tmp_path: Path) -> None:
    """One part is signed for another number: what the server refuses is not sent again."""
    config = configure(minio, tmp_path / "keys", bucket)
    uploader = open_parts(config, bucket)
    sent = uploader.http.request

    def forge(method: str, url: str, **rest: Any) -> urllib3.BaseHTTPResponse:
        answer = sent(method, url.replace("partNumber=3", "partNumber=3000"), **rest)
        counts["sent"] += 1
        return answer

    counts = {"sent": 0}
    with (
        patch.object(uploader.http, "request", forge),
        pytest.raises(S3Error, match="Signature"),
    ):
        uploader.put("key", memoryview(bytes(4 * SMALL_PART_BYTES)), part_bytes=SMALL_PART_BYTES)
    assert counts["sent"] <= 4
    assert open_store(config.uri, config).abort_uploads() == 0
    assert open_store(config.uri, config).find_object("key") is None


def test_upload_whose_success_was_not_heard_is_one(
    minio: MinioServer, bucket: str, tmp_path: Path
) -> None:
    config = configure(minio, tmp_path / "keys", bucket)
    uploader = open_parts(config, bucket)
    complete = uploader.client._complete_multipart_upload

    def complete_twice(*arguments: Any) -> Any:
        complete(*arguments)
        return complete(*arguments)

    data = secrets.token_bytes(SMALL_PART_BYTES + 1)
    with patch.object(uploader.client, "_complete_multipart_upload", complete_twice):
        uploader.put("key", memoryview(data), part_bytes=SMALL_PART_BYTES)
    assert open_store(config.uri, config).read_bytes("key") == data


def open_parts(config: StorageConfig, bucket: str) -> PartsUploader:
    store = open_store(f"s3://{bucket}", config)
    assert isinstance(store, S3Store)
    return store._parts


def test_broken_download_is_resumed(minio: MinioServer, bucket: str, tmp_path: Path) -> None:
    data = bytes(range(256)) * 40_000
    direct = configure(minio, tmp_path / "keys", bucket)
    open_store(direct.uri, direct).write_bytes("key", data)
    with cut_connections(minio, after_bytes=3_000_000) as (endpoint, counts):
        config = direct.model_copy(update={"endpoint": endpoint})
        open_store(config.uri, config).download("key", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert counts["cut"] >= 2


@contextmanager
def cut_connections(
    server: MinioServer,
    *,
    after_bytes: int,
    of: str = "answers",
    times: float = math.inf,
    pause: float = 0.0,
) -> Iterator[tuple[str, dict[str, int]]]:
    """Forward connections to `server`; cut the first `times` after so many bytes of one way.

    `pause` is in seconds, after each 64 KiB of it.
    """
    counts = {"opened": 0, "cut": 0}

    class Forwarder(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((server.address, server.port)) as upstream:
                source, target = upstream, self.request
                if of == "requests":
                    source, target = target, source
                thread = threading.Thread(target=copy_bytes, args=(target, source), daemon=True)
                thread.start()
                counts["opened"] += 1
                left = after_bytes if counts["opened"] <= times else sys.maxsize
                while left > 0 and (data := source.recv(min(left, 65_536))):
                    target.sendall(data)
                    left -= len(data)
                    time.sleep(pause)
                counts["cut"] += left == 0
                self.request.shutdown(socket.SHUT_RDWR)
                upstream.shutdown(socket.SHUT_RDWR)
                thread.join()

    class Proxy(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Proxy(("127.0.0.1", 0), Forwarder) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{proxy.server_address[1]}", counts
        finally:
            proxy.shutdown()
            thread.join()


def copy_bytes(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            target.sendall(data)
    except OSError:
        return


def test_tls_needs_the_authority(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path / "pki")
    server = MinioServer(tmp_path / "minio", authority=authority)
    server.start()
    try:
        server.create_bucket("bucket")
        assert server.ca_bundle is not None
        ca_file = shutil.copy(server.ca_bundle, tmp_path / "ca.crt")
        trusting = configure(server, tmp_path / "keys", "bucket", ca_file=str(ca_file))
        open_store("s3://bucket", trusting).check()
        stranger = configure(server, tmp_path / "keys", "bucket")
        with pytest.raises(StoreError) as failed:
            open_store("s3://bucket", stranger).check()
        assert "caConfigMap" in failed.value.next_step
    finally:
        server.stop()


def test_versions_are_listed_and_read_where_the_bucket_keeps_them(
    minio: MinioServer, tmp_path: Path
) -> None:
    bucket = f"versions-{secrets.token_hex(4)}"
    minio.create_bucket(bucket, keeps_versions=True)
    store = open_store(f"s3://{bucket}/a", configure(minio, tmp_path / "keys", bucket))
    store.write_bytes("gone", b"")
    store.delete("gone")
    store.write_bytes("key", b"old text")
    (old,) = store.list_versions()
    store.write_bytes("key", b"new")
    (new,) = store.list_versions()
    assert (old.key, new.key) == ("key", "key")
    assert None not in {old.version, new.version}
    store.delete("key")
    assert store.read_bytes("key", start=4, version=old.version) == b"text"
    store.download("key", tmp_path / "new", version=new.version)
    assert (tmp_path / "new").read_bytes() == b"new"
    assert list(store.list_versions()) == []
    with pytest.raises(ObjectMissingError):
        store.read_bytes("key", version="00000000-0000-0000-0000-000000000000")


def test_keys_that_may_not_list_versions_get_none(minio: MinioServer, tmp_path: Path) -> None:
    bucket = f"versions-{secrets.token_hex(4)}"
    minio.create_bucket(bucket, keeps_versions=True)
    store = S3Store(bucket, "a", configure(minio, tmp_path / "keys", bucket))
    store.write_bytes("key", b"text")
    ask = store._client._execute

    def refuse(*args: Any, **fields: Any) -> Any:
        # MinIO itself lets whoever may list objects list versions; AWS has a right for each.
        if "versions" in (fields.get("query_params") or {}):
            response: Any = None
            raise S3Error(response, "AccessDenied", "Access Denied.", "", "", "")
        return ask(*args, **fields)

    with patch.object(store._client, "_execute", refuse):
        assert [found.version for found in store.list_versions()] == [None]
