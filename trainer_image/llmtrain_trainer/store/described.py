"""An object as manifests list it: what it must be, to be believed.

Below: the contract's base model. Above: the manifests of checkpoints, datasets and exports.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import Field

from llmtrain_api.base import Model


class ManifestObject(Model):
    """One object of a checkpoint, a dataset or an export."""

    key: str
    """Where it lies, relative to what the manifest describes."""

    size: int = Field(ge=0)
    """Bytes."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")


def describe_file(path: Path, key: str) -> ManifestObject:
    """Return size and digest of a file that is to lie at `key`."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ManifestObject(key=key, size=path.stat().st_size, sha256=digest)
