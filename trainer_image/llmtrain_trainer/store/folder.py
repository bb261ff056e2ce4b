"""A store in a folder: s3://bucket/key is the file <root>/bucket/key.

Below: the file system. Above: `open_store`, for local runs. Buckets and folders are made at
need. A file is written under a passing name, synced and renamed, so that a crash at any moment
leaves the old object or the new one; `create_bytes` links it, which fails where one exists.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llmtrain_trainer.failures import ConfigurationError
from llmtrain_trainer.store.errors import (
    explain_denied,
    explain_existing_object,
    explain_failure,
    explain_missing_object,
)
from llmtrain_trainer.store.protocol import StoredObject

PARTIAL_PREFIX = ".partial-"
"""Begins the names of files that are being written: no objects yet."""


class FolderStore:
    """Objects under s3://`bucket`/`prefix`, kept below `root`."""

    def __init__(self, root: Path, bucket: str, prefix: str) -> None:
        """Root the store; the folder need not exist yet."""
        self._place = str(root)
        self._uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self._folder = root / bucket / prefix

    @property
    def uri(self) -> str:
        """The root, as s3://bucket/prefix."""
        return self._uri

    def check(self) -> None:
        """Make the folder, and raise where it cannot be written."""
        with self._explain(""):
            self._folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self._folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "not writable", str(self._folder))

    def list_objects(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield the objects whose key begins with `prefix`."""
        top = self._folder / prefix.rpartition("/")[0]
        paths = [path for path in top.rglob("*") if not path.name.startswith(PARTIAL_PREFIX)]
        keys = sorted(path.relative_to(self._folder).as_posix() for path in paths)
        for key in keys:
            if key.startswith(prefix) and (found := self.find_object(key)) is not None:
                yield found

    def list_versions(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield the objects whose key begins with `prefix`; files have no versions."""
        return self.list_objects(prefix)

    def find_object(self, key: str) -> StoredObject | None:
        """Return size and etag of one object, or None."""
        path = self._locate(key)
        with self._explain(key):
            try:
                facts = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            if not stat.S_ISREG(facts.st_mode):
                return None
        return StoredObject(
            key=key, size=facts.st_size, etag=f"{facts.st_size:x}-{facts.st_mtime_ns:x}"
        )

    def read_bytes(
        self, key: str, *, start: int = 0, length: int | None = None, version: str | None = None
    ) -> bytes:
        """Return an object's bytes, or `length` of them from `start`."""
        _refuse_version(version, f"{self._uri}/{key}")
        with self._explain(key), self._locate(key).open("rb") as file:
            file.seek(start)
            return file.read() if length is None else file.read(length)

    def download(self, key: str, path: Path, *, version: str | None = None) -> None:
        """Copy an object to a local file."""
        _refuse_version(version, f"{self._uri}/{key}")
        source = self._locate(key)
        with self._explain(key):
            if not source.is_file():
                raise FileNotFoundError(source)
            _write_file(path, lambda partial: shutil.copyfile(source, partial), os.replace)

    def write_bytes(self, key: str, data: bytes) -> None:
        """Create or replace an object."""
        with self._explain(key):
            _write_file(self._locate(key), lambda partial: partial.write_bytes(data), os.replace)

    def upload(self, key: str, path: Path) -> None:
        """Create or replace an object from a local file."""
        with self._explain(key):
            _write_file(
                self._locate(key), lambda partial: shutil.copyfile(path, partial), os.replace
            )

    def abort_uploads(self, prefix: str = "") -> int:
        """Remove what unfinished uploads under `prefix` have left; return how many there were."""
        with self._explain(prefix):
            top = self._folder / prefix.rpartition("/")[0]
            left = [
                path
                for path in top.rglob(f"{PARTIAL_PREFIX}*")
                if path.relative_to(self._folder).as_posix().startswith(prefix)
            ]
            for path in left:
                path.unlink(missing_ok=True)
        return len(left)

    def create_bytes(self, key: str, data: bytes) -> None:
        """Create an object if there is none of that key."""
        try:
            with self._explain(key):
                _write_file(self._locate(key), lambda partial: partial.write_bytes(data), os.link)
        except FileExistsError:
            raise explain_existing_object(f"{self._uri}/{key}") from None

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is no error."""
        with self._explain(key):
            self._locate(key).unlink(missing_ok=True)

    def _locate(self, key: str) -> Path:
        if any(part in {"", ".", ".."} for part in key.split("/")):
            raise ConfigurationError(
                f"{self._uri}/{key} cannot be a file: a part of it is empty, . or ..",
                reason="KeyInvalid",
                next_step="correct the URI",
            )
        return self._folder / key

    @contextmanager
    def _explain(self, key: str) -> Iterator[None]:
        uri = f"{self._uri}/{key}"
        try:
            yield
        except FileExistsError:
            raise
        except (FileNotFoundError, IsADirectoryError):
            raise explain_missing_object(self._place, uri) from None
        except PermissionError as error:
            raise explain_denied(self._place, uri, str(error)) from error
        except OSError as error:
            raise explain_failure(self._place, uri, str(error)) from error


def _refuse_version(version: str | None, uri: str) -> None:
    if version is not None:
        raise explain_missing_object(
            "a folder, which keeps no versions", f"{uri}?versionId={version}"
        )


def _write_file(
    path: Path, fill: Callable[[Path], object], publish: Callable[[Path, Path], None]
) -> None:
    """Fill a file of a passing name beside `path`, make it durable and give it its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f"{PARTIAL_PREFIX}{uuid.uuid4().hex}"
    try:
        fill(partial)
        _sync(partial)
        publish(partial, path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
