"""What a store can do.

Below: nothing. Above: `folder` and `s3` do it, everything else of the trainer asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """An object as a listing shows it."""

    key: str
    """Relative to the store's root."""

    size: int
    """Bytes."""

    etag: str
    """Changes when the content does."""

    version: str | None = None
    """By which these very bytes are read, whatever is put in their place; None: it was not asked
    for, or the store keeps no versions.
    """


class Store(Protocol):
    """Objects under a root; keys are relative to it, with / between their parts.

    An object appears whole or not at all. Every method raises `StoreError` where the store
    does not answer, refuses, or lacks the bucket.
    """

    @property
    def uri(self) -> str:
        """The root, as s3://bucket/prefix."""

    def check(self) -> None:
        """Raise `StoreError` where the store cannot be used, within ten seconds or so."""

    def list_objects(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield the objects whose key begins with `prefix` (any text), in order of their keys."""

    def list_versions(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield what `list_objects` does, with the version of each where the store keeps versions
        and lets them be listed.
        """

    def find_object(self, key: str) -> StoredObject | None:
        """Return what a listing would show of one object, or None."""

    def read_bytes(
        self, key: str, *, start: int = 0, length: int | None = None, version: str | None = None
    ) -> bytes:
        """Return an object's bytes, or `length` of them from `start`; None: the newest version's.

        Raises:
            ObjectMissingError: where there is none.
        """

    def download(self, key: str, path: Path, *, version: str | None = None) -> None:
        """Copy an object to a local file, whole or not at all; None: its newest version.

        Raises:
            ObjectMissingError: where there is none.
        """

    def write_bytes(self, key: str, data: bytes) -> None:
        """Create or replace an object."""

    def upload(self, key: str, path: Path) -> None:
        """Create or replace an object from a local file."""

    def abort_uploads(self, prefix: str = "") -> int:
        """Remove what unfinished uploads under `prefix` have left; return how many there were.

        They are no objects, and no listing shows them, but they take space.
        """

    def create_bytes(self, key: str, data: bytes) -> None:
        """Create an object if there is none of that key; of several writers one succeeds.

        Raises:
            ObjectExistsError: where there is one. It may be this call's own: a request whose
                answer was lost is sent again, and finds what the first one wrote.
        """

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is no error."""
