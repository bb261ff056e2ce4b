from __future__ import annotations

import io
from pathlib import Path

import pytest
import urllib3

from testbed.certificates import CertificateAuthority
from testbed.minio import MinioServer


def test_keeps_objects_across_a_crash(tmp_path: Path) -> None:
    server = MinioServer(tmp_path)
    server.start()
    try:
        server.create_bucket("models")
        server.connect().put_object("models", "weights", io.BytesIO(b"abc"), 3)
        server.kill()
        with pytest.raises(urllib3.exceptions.HTTPError):
            server.connect().list_buckets()
        server.start()
        assert server.connect().get_object("models", "weights").read() == b"abc"
    finally:
        server.stop()


def test_serves_tls_that_only_our_authority_verifies(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path / "pki")
    server = MinioServer(tmp_path / "minio", authority=authority)
    server.start()
    try:
        server.create_bucket("models")
        assert server.endpoint.startswith("https://")
        with (
            urllib3.PoolManager(retries=False) as stranger,
            pytest.raises(urllib3.exceptions.SSLError),
        ):
            stranger.request("GET", server.endpoint)
    finally:
        server.stop()
