"""Documents that somebody asked to be erased: known by their text's digest or their id, left out.

Below: `sources`, `document_index` for how documents are named. Above: `collect` looks at every
document before anything is done to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmtrain_api.sources import Source
from llmtrain_trainer.dataset.document_index import ENTRY_BYTES, ID_PREFIX, SHA256
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.preparation.document import Document
from llmtrain_trainer.preparation.sources import SourceFile, fetch_source_file

UNREADABLE = "\ufffd"
"""Stands for bytes that are no UTF-8."""


@dataclass(frozen=True, slots=True)
class Erasures:
    """Documents that must not be used."""

    digests: frozenset[str]
    """As `digest_text` gives them."""

    ids: frozenset[str]

    def name(self, document: Document) -> bool:
        """Return whether a document is one of them."""
        return document.digest in self.digests or document.facts.id in self.ids


NO_ERASURES = Erasures(frozenset(), frozenset())


def read_erasures(files: list[SourceFile], scratch: Path, sources: Sequence[Source]) -> Erasures:
    """Return what the files list: a digest or an id in each line.

    Args:
        files: the lists.
        scratch: folder for one of them at a time.
        sources: of documents.

    Raises:
        DataError: where a line is neither, or an id where no source has ids: a list that is half
            understood erases too little.
        StoreError: where the store fails.
    """
    digests: set[str] = set()
    ids: set[str] = set()
    have_ids = any(source.fields is not None and source.fields.id for source in sources)
    path = scratch / "erasures"
    for file in files:
        fetch_source_file(file, path)
        lines = path.read_text(encoding="utf-8-sig", errors="replace").split("\n")
        for number, line in enumerate(lines, start=1):
            name, place = line.strip(), f"{file.uri}:{number}"
            if SHA256.fullmatch(name):
                digests.add(name[: 2 * ENTRY_BYTES])
            elif name.startswith(ID_PREFIX) and name != ID_PREFIX and UNREADABLE not in name:
                if not have_ids:
                    raise DataError(
                        f"{place}: an id, but no source in data.sources names its field of ids",
                        reason="DocumentInvalid",
                        next_step="name it in data.sources[].fields.id, or list digests",
                    )
                ids.add(name.removeprefix(ID_PREFIX))
            elif name:
                raise DataError(
                    f"{place}: neither a SHA-256 in 64 hexadecimal digits, or its first 32, "
                    "nor id: and an id",
                    reason="DocumentInvalid",
                    next_step="write the digest of a document's text as read, or id: and its id",
                )
        path.unlink()
    return Erasures(frozenset(digests), frozenset(ids))
