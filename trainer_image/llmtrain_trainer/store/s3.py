"""A store on an S3 server: MinIO, or any other that keeps the promises of the protocol.

Below: `minio`, and `parts` for large objects. Above: `open_store`.

Every request is tried again a few times with growing, jittered pauses, then fails within about
ten seconds where nothing answers; a body that breaks off is resumed where it stopped.
"""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError

import certifi
import urllib3
from minio import Minio
from minio.credentials.credentials import Credentials
from minio.credentials.providers import Provider
from minio.error import MinioException, S3Error
from urllib3.exceptions import HTTPError, MaxRetryError, SSLError

from llmtrain_api.run import StorageConfig
from llmtrain_trainer.failures import StoreError
from llmtrain_trainer.store.errors import (
    ObjectMissingError,
    StorageUnreachableError,
    explain_denied,
    explain_existing_object,
    explain_failure,
    explain_foreign_server,
    explain_missing_bucket,
    explain_missing_credentials,
    explain_missing_object,
    explain_unreachable,
)
from llmtrain_trainer.store.parts import PART_BYTES, URL_LIFETIME, PartsUploader, read_refusal
from llmtrain_trainer.store.protocol import StoredObject

AWS_ENDPOINT = "https://s3.amazonaws.com"

CONNECT_SECONDS = 2.0
READ_SECONDS = 30.0
"""Longest silence within a request."""

CHECK_SECONDS = 8.0
"""The same where the question is only whether the store is there."""

RETRIES = urllib3.Retry(
    total=3,
    read=1,
    backoff_factor=0.2,
    backoff_jitter=0.2,
    status_forcelist=[429, 500, 502, 503, 504],
    # POST is for multipart uploads: one begun twice is swept up by the server, and one completed
    # twice fails as it would without the second try.
    allowed_methods=None,
    raise_on_status=False,
    respect_retry_after_header=False,  # MinIO asks for a minute, which is no answer in ten seconds
)

CHECK_RETRIES = RETRIES.new(read=0)

PART_RETRIES = RETRIES.new(total=5, read=3)

CREATE_RETRIES = RETRIES.new(
    status_forcelist=[*RETRIES.status_forcelist, 409]  # a rival's create is not decided yet
)

CHUNK_BYTES = 1024 * 1024
MAX_CONNECTIONS = 16
MAX_FRUITLESS_RESUMES = 3

DENIED_CODES = frozenset(
    {
        "AccessDenied",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "AllAccessDisabled",
    }
)
EXISTS_STATUS = 412
MISSING_CODES = frozenset({"NoSuchKey", "NoSuchObject", "NoSuchVersion"})

NO_VERSION = "null"
"""Of what was put where no versions are kept, and is overwritten by the next of that kind."""

UNLISTED_CODES = frozenset({"AccessDenied", "NotImplemented", "MethodNotAllowed"})
"""Answers of those that have no list of versions for us: it needs s3:ListBucketVersions."""


class FileCredentials(Provider):
    """Credentials in the files `accessKey` and `secretKey`, read for every request.

    A mounted Secret changes under a running pod when its keys are rotated.
    """

    def __init__(self, directory: Path) -> None:
        """Raise `CredentialsMissingError` where a file is not there or is empty."""
        self._directory = directory
        self.retrieve()

    def retrieve(self) -> Credentials:
        """Return what the files hold now."""
        return Credentials(self._read("accessKey"), self._read("secretKey"))

    def _read(self, name: str) -> str:
        path = self._directory / name
        try:
            text = path.read_text(encoding="utf-8").strip()
        except OSError:
            text = ""
        if not text:
            raise explain_missing_credentials(str(path))
        return text


class S3Store:
    """Objects under s3://`bucket`/`prefix`."""

    def __init__(self, bucket: str, prefix: str, config: StorageConfig) -> None:
        """Describe the store; no request is made.

        Raises:
            CredentialsMissingError: where the folder of credentials lacks a file.
        """
        self._place = (config.endpoint or AWS_ENDPOINT).rstrip("/")
        self._bucket = bucket
        self._prefix = f"{prefix.rstrip('/')}/" if prefix else ""
        self._config = config
        self._credentials = (
            FileCredentials(Path(config.credentials_directory))
            if config.credentials_directory
            else None
        )
        self._http = self._open_pool(READ_SECONDS, RETRIES)
        self._client = self._connect(self._http)
        self._parts = PartsUploader(
            client=self._client, http=self._http, bucket=bucket, retries=PART_RETRIES
        )

    @property
    def uri(self) -> str:
        """The root, as s3://bucket/prefix."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def check(self) -> None:
        """List objects: that needs the server, the bucket and the credentials."""
        with self._explain(""), self._open_pool(CHECK_SECONDS, CHECK_RETRIES) as pool:
            objects = self._connect(pool).list_objects(self._bucket, prefix=self._prefix)
            try:
                next(objects, None)
            except (ValueError, ParseError) as error:
                raise explain_foreign_server(self._place, str(error)) from error

    def list_objects(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield the objects whose key begins with `prefix`."""
        with self._explain(prefix):
            for item in self._client.list_objects(
                self._bucket, prefix=self._prefix + prefix, recursive=True
            ):
                assert item.object_name is not None
                yield StoredObject(
                    key=item.object_name.removeprefix(self._prefix),
                    size=item.size or 0,
                    etag=item.etag or "",
                )

    def list_versions(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield the objects whose key begins with `prefix`, with the newest version of each."""
        with self._explain(prefix):
            try:
                found = self._client.list_objects(
                    self._bucket,
                    prefix=self._prefix + prefix,
                    recursive=True,
                    include_version=True,
                )
                newest = [
                    item for item in found if item.is_latest == "true" and not item.is_delete_marker
                ]
            except S3Error as error:
                if error.code not in UNLISTED_CODES:
                    raise
                yield from self.list_objects(prefix)
                return
        for item in newest:
            assert item.object_name is not None
            yield StoredObject(
                key=item.object_name.removeprefix(self._prefix),
                size=item.size or 0,
                etag=item.etag or "",
                version=None if item.version_id == NO_VERSION else item.version_id,
            )

    def find_object(self, key: str) -> StoredObject | None:
        """Return size and etag of one object, or None."""
        try:
            with self._explain(key):
                facts = self._client.stat_object(self._bucket, self._prefix + key)
        except ObjectMissingError:
            return None
        return StoredObject(key=key, size=facts.size or 0, etag=facts.etag or "")

    def read_bytes(
        self, key: str, *, start: int = 0, length: int | None = None, version: str | None = None
    ) -> bytes:
        """Return an object's bytes, or `length` of them from `start`."""
        if length == 0:
            return b""
        target = io.BytesIO()
        self._read(key, target, start=start, length=length, version=version)
        return target.getvalue()

    def download(self, key: str, path: Path, *, version: str | None = None) -> None:
        """Copy an object to a local file."""
        partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
        try:
            with partial.open("wb") as target:
                self._read(key, target, version=version)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def write_bytes(self, key: str, data: bytes) -> None:
        """Create or replace an object."""
        with self._explain(key):
            self._client.put_object(
                self._bucket, self._prefix + key, io.BytesIO(data), len(data), part_size=PART_BYTES
            )

    def upload(self, key: str, path: Path) -> None:
        """Create or replace an object from a local file, large ones in several parts at once."""
        if path.stat().st_size == 0:
            self.write_bytes(key, b"")
            return
        with path.open("rb") as file:
            # Closed when nothing refers to it any more, be it the trace of an error.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with self._explain(key):
            self._parts.put(self._prefix + key, memoryview(mapped))

    def abort_uploads(self, prefix: str = "") -> int:
        """Remove what unfinished uploads under `prefix` have left; return how many there were."""
        with self._explain(prefix):
            return self._parts.abort_uploads(self._prefix + prefix)

    def create_bytes(self, key: str, data: bytes) -> None:
        """Create an object if there is none of that key.

        By a presigned URL, because `put_object` has no way to send `If-None-Match`.
        """
        with self._explain(key):
            url = self._client.get_presigned_url(
                "PUT", self._bucket, self._prefix + key, expires=URL_LIFETIME
            )
            answer = self._http.request(
                "PUT", url, body=data, headers={"If-None-Match": "*"}, retries=CREATE_RETRIES
            )
            if answer.status == EXISTS_STATUS:
                raise explain_existing_object(f"{self.uri}/{key}")
            if answer.status >= 300:
                raise read_refusal(answer)

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is no error."""
        with self._explain(key):
            self._client.remove_object(self._bucket, self._prefix + key)

    def _read(
        self,
        key: str,
        target: IO[bytes],
        *,
        start: int = 0,
        length: int | None = None,
        version: str | None = None,
    ) -> None:
        """Write an object's bytes to `target`, resuming where the connection breaks off.

        It gives up when `MAX_FRUITLESS_RESUMES` in a row brought nothing.
        """
        done = fruitless = 0
        while True:
            remaining = 0 if length is None else length - done
            try:
                with self._explain(key):
                    self._copy_body(key, target, start + done, remaining, version)
                return
            except _BrokenBodyError as error:
                done += error.num_bytes
                fruitless = 0 if error.num_bytes else fruitless + 1
                if fruitless == MAX_FRUITLESS_RESUMES:
                    raise explain_unreachable(self._place, str(error)) from error

    def _copy_body(
        self, key: str, target: IO[bytes], start: int, length: int, version: str | None
    ) -> None:
        answer = self._client.get_object(
            self._bucket, self._prefix + key, offset=start, length=length, version_id=version
        )
        copied = 0
        try:
            for chunk in answer.stream(CHUNK_BYTES):
                target.write(chunk)
                copied += len(chunk)
        except HTTPError as error:
            raise _BrokenBodyError(copied, str(error)) from error
        finally:
            answer.close()
            answer.release_conn()

    def _open_pool(self, read_seconds: float, retries: urllib3.Retry) -> urllib3.PoolManager:
        return urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=read_seconds),
            retries=retries,
            maxsize=MAX_CONNECTIONS,
            ca_certs=self._config.ca_file or certifi.where(),
        )

    def _connect(self, pool: urllib3.PoolManager) -> Minio:
        address = urlsplit(self._place)
        client = Minio(
            address.netloc,
            secure=address.scheme == "https",
            region=self._config.region,
            http_client=pool,
            credentials=self._credentials,
        )
        client.disable_virtual_style_endpoint()
        return client

    @contextmanager
    def _explain(self, key: str) -> Iterator[None]:
        try:
            yield
        except S3Error as error:
            raise self._explain_answer(key, error) from error
        except MinioException as error:
            raise explain_failure(self._place, f"{self.uri}/{key}", str(error)) from error
        except HTTPError as error:
            raise _explain_silence(self._place, error) from error

    def _explain_answer(self, key: str, error: S3Error) -> StoreError:
        uri = f"{self.uri}/{key}"
        why = f"{error.code}: {error.message}"
        if error.code == "NoSuchBucket":
            return explain_missing_bucket(self._place, self._bucket)
        if error.code in MISSING_CODES:
            return explain_missing_object(self._place, uri)
        if error.code in DENIED_CODES:
            return explain_denied(self._place, uri, why)
        return explain_failure(self._place, uri, why)


class _BrokenBodyError(Exception):
    """The connection broke off within an object's bytes."""

    def __init__(self, num_bytes: int, why: str) -> None:
        super().__init__(why)
        self.num_bytes = num_bytes


def _explain_silence(place: str, error: HTTPError) -> StorageUnreachableError:
    cause = error.reason if isinstance(error, MaxRetryError) and error.reason else error
    failure = explain_unreachable(place, str(cause))
    if isinstance(cause, SSLError):
        failure.next_step = "name the ConfigMap with the server's CA in spec.storage.caConfigMap"
    return failure
