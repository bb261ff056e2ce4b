"""Which documents a dataset holds, as one sorted object: asked for by text or id, read in part.

Below: numpy, `store`. Above: `preparation` writes it, `llmtrain data lineage` asks.

    documents.index     entries of 16 bytes, sorted, each once

An entry is the beginning of a SHA-256: that of a document's text as it was read, and that of
`id:` and its id, where it has one. Nothing can be read off it but the answer for a text or an id
that one knows. A look-up takes a request for each halving of the object, down to 64 KiB: one for
four thousand documents, nine for a million.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np

from llmtrain_trainer.store import Store

DOCUMENTS = "documents.index"

ENTRY_BYTES = 16
"""128 bits: no two documents will ever share an entry by chance."""

BLOCK_BYTES = 64 * 1024

ID_PREFIX = "id:"
"""Begins the name of a document by its id; any other name is a SHA-256 or its first half."""

SHA256 = re.compile(r"[0-9a-f]{32}(?:[0-9a-f]{32})?")
"""Of a text as it was read, or the first half of it, which is as sure (see `ENTRY_BYTES`)."""


class DocumentIndex:
    """The documents of a dataset, while it is written: 16 bytes of memory for each, 32 with ids."""

    def __init__(self) -> None:
        """Begin with none."""
        self._entries = bytearray()

    def add(self, digest: str, name: str) -> None:
        """Add a document by the `digest_text` of its text, and by its id, which may be empty."""
        self._entries += bytes.fromhex(digest)
        if name:
            self._entries += bytes.fromhex(digest_text(ID_PREFIX + name))

    def write(self, path: Path) -> None:
        """Write the object to a file."""
        entries = np.frombuffer(self._entries, dtype=f"S{ENTRY_BYTES}")
        path.write_bytes(np.unique(entries).tobytes())


def digest_text(text: str) -> str:
    """Return the entry of a text, in hexadecimal: the beginning of its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[: 2 * ENTRY_BYTES]


def make_entry(name: str) -> bytes | None:
    """Return the entry of a document that is named by a SHA-256 or by id:…; None: by neither."""
    if SHA256.fullmatch(name):
        return bytes.fromhex(name)[:ENTRY_BYTES]
    if name.startswith(ID_PREFIX) and name != ID_PREFIX:
        return bytes.fromhex(digest_text(name))
    return None


def find_entry(store: Store, size: int, entry: bytes) -> bool:
    """Return whether the index of the dataset that `store` is rooted at has an entry.

    Args:
        store: rooted at a dataset.
        size: of its index, in bytes.
        entry: see `make_entry`.

    Raises:
        StoreError: where the store fails or lacks the index.
    """
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2 // ENTRY_BYTES * ENTRY_BYTES
        start = max(low, middle - BLOCK_BYTES // 2)
        block = store.read_bytes(DOCUMENTS, start=start, length=min(high - start, BLOCK_BYTES))
        if entry < block[:ENTRY_BYTES]:
            high = start
        elif entry > block[-ENTRY_BYTES:]:
            low = start + len(block)
        else:
            return any(
                block[place : place + ENTRY_BYTES] == entry
                for place in range(0, len(block), ENTRY_BYTES)
            )
    return False
