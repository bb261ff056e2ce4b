"""Which objects a recipe read, and by which versions: a record that it can be repeated by.

Below: the contract's base model. Above: `preparation.pins` writes it for a run and goes by it, the
manifest of a dataset keeps it.
"""

from __future__ import annotations

from pydantic import Field

from llmtrain_api.base import Model


class PinnedObject(Model):
    """An object that one of a list of sources named."""

    source: int = Field(ge=0)
    """Index of the source in its list."""

    uri: str
    size: int = Field(ge=0)
    """Bytes."""

    etag: str
    """As the store gave it; another one is another content."""

    version: str | None = None
    """By which it is read; absent: the bucket kept no versions."""


class InputPins(Model):
    """Every object that a recipe read, by its lists, each in the order of reading."""

    documents: list[PinnedObject]
    """Of `data.sources`."""

    against: list[PinnedObject] = Field(default_factory=list)
    """Of `data.deduplicate.against`."""

    erase: list[PinnedObject] = Field(default_factory=list)
    """Of `data.privacy.erase`."""

    relabel: list[PinnedObject] = Field(default_factory=list)
    """Of `data.relabel`."""
