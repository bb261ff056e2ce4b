"""Documents that somebody asked to be erased: known by the digest of their text, and left out.

Below: `sources`, `marks`. Above: `collect` looks at every document before anything is done to it.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from llmtrain_trainer.failures import DataError
from llmtrain_trainer.preparation.sources import SourceFile, fetch_source_file
from llmtrain_trainer.tokenizer.marks import show_text

SHA256 = re.compile(rb"[0-9a-f]{64}")


def read_erasures(files: list[SourceFile], scratch: Path) -> frozenset[bytes]:
    """Return the digests that the files list, one in each line.

    Raises:
        DataError: where a line is no digest; a list that is half understood erases too little.
        StoreError: where the store fails.
    """
    digests: set[bytes] = set()
    path = scratch / "erasures"
    for file in files:
        fetch_source_file(file, path)
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            if not line.strip():
                continue
            if not SHA256.fullmatch(line.strip()):
                raise DataError(
                    f"{file.uri}:{number}: not a SHA-256 in 64 hexadecimal digits",
                    reason="DocumentInvalid",
                    next_step="write the digest of a document's text, as read, in each line",
                )
            digests.add(bytes.fromhex(line.strip().decode()))
        path.unlink()
    return frozenset(digests)


def is_erased(text: str, erasures: frozenset[bytes]) -> bool:
    """Return whether a document is to be left out; a conversation is one text without marks."""
    return bool(erasures) and hashlib.sha256(show_text(text).encode()).digest() in erasures
