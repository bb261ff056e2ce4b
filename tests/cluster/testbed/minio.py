"""A real MinIO server on one machine: the object store that tests break and bring back.

Needs no root. Its credentials are drawn anew for each server. `fixtures` gives tests a running one.
"""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

import urllib3
from minio import Minio, MinioAdmin
from minio.commonconfig import ENABLED
from minio.credentials.providers import StaticProvider
from minio.error import MinioException
from minio.versioningconfig import VersioningConfig

from testbed.binaries import ensure_binary
from testbed.certificates import CertificateAuthority
from testbed.processes import ServerProcess, find_free_port

START_SECONDS = 30
REQUEST_SECONDS = 10
PROBE_SECONDS = 1
STOP_SECONDS = 2


class MinioServer:
    """A MinIO under ``directory``, listening at ``address``:``port`` (a free one by default).

    With an ``authority`` it serves TLS by a certificate of that authority.
    """

    def __init__(
        self,
        directory: Path,
        *,
        address: str = "127.0.0.1",
        port: int | None = None,
        authority: CertificateAuthority | None = None,
    ) -> None:
        self.address = address
        self.port = port or find_free_port(address)
        self.access_key = secrets.token_hex(10)
        self.secret_key = secrets.token_hex(20)
        self.ca_bundle = authority.certificate if authority else None
        certificates = directory / "certificates"
        certificates.mkdir(parents=True, exist_ok=True)
        if authority:
            identity = authority.issue("minio", "minio", addresses=[address])
            shutil.copy(identity.certificate, certificates / "public.crt")
            shutil.copy(identity.key, certificates / "private.key")
        self._server = ServerProcess(
            "minio",
            [
                ensure_binary("minio"),
                "server",
                "--quiet",
                f"--address={address}:{self.port}",
                f"--console-address={address}:{find_free_port(address)}",
                f"--certs-dir={certificates}",
                directory / "data",
            ],
            log=directory / "minio.log",
            environment={
                "MINIO_ROOT_USER": self.access_key,
                "MINIO_ROOT_PASSWORD": self.secret_key,
                "MINIO_BROWSER": "off",
                "MINIO_UPDATE": "off",
            },
        )

    @property
    def process_id(self) -> int:
        """Of the server, which must run."""
        return self._server.pid

    @property
    def endpoint(self) -> str:
        """``http://host:port``, or ``https://…`` where it serves TLS."""
        return f"{'https' if self.ca_bundle else 'http'}://{self.address}:{self.port}"

    def start(self) -> None:
        """Start, at first or after `kill` or `stop`: same port, same data, same credentials."""
        self._server.start()
        self._server.wait_ready(self._is_ready, seconds=START_SECONDS)

    def kill(self) -> None:
        """SIGKILL: the store is gone at once, as in a crash."""
        self._server.kill()

    def stop(self) -> None:
        """Stop as an administrator would; not for long, as it waits for idle connections."""
        self._server.stop(grace_seconds=STOP_SECONDS)

    def create_bucket(self, name: str, *, keeps_versions: bool = False) -> None:
        """Make an empty bucket."""
        client = self.connect()
        client.make_bucket(name)
        if keeps_versions:
            client.set_bucket_versioning(name, VersioningConfig(ENABLED))

    def connect(self) -> Minio:
        """A client with the root credentials."""
        return self._connect(REQUEST_SECONDS)

    def add_user(self, access_key: str) -> str:
        """Make a user that may do all with all buckets; returns its secret key."""
        secret_key = secrets.token_hex(20)
        administrator = self._connect_administrator()
        administrator.user_add(access_key, secret_key)
        administrator.policy_set("readwrite", user=access_key)
        return secret_key

    def disable_user(self, access_key: str) -> None:
        """Let a user's keys count no more."""
        self._connect_administrator().user_disable(access_key)

    def _connect_administrator(self) -> MinioAdmin:
        return MinioAdmin(
            endpoint=f"{self.address}:{self.port}",
            credentials=StaticProvider(self.access_key, self.secret_key),
            secure=self.ca_bundle is not None,
        )

    def _connect(self, timeout_seconds: float) -> Minio:
        return Minio(
            f"{self.address}:{self.port}",
            access_key=self.access_key,
            secret_key=self.secret_key,
            secure=self.ca_bundle is not None,
            http_client=urllib3.PoolManager(
                timeout=timeout_seconds,
                retries=False,
                ca_certs=str(self.ca_bundle) if self.ca_bundle else None,
            ),
        )

    def _is_ready(self) -> bool:
        # Its health endpoint says ready before the store takes requests, so ask the store.
        try:
            self._connect(PROBE_SECONDS).list_buckets()
        except (MinioException, urllib3.exceptions.HTTPError):
            return False
        return True
