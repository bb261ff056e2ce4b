"""The first pass: every source is fetched and read, and its documents are spooled.

Below: `sources`, `readers`, `spool`. Above: `prepare`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llmtrain_api.sources import Invalid, InvalidPolicy
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.preparation.document import Document, Rejection
from llmtrain_trainer.preparation.readers import explain_rejection, read_documents
from llmtrain_trainer.preparation.sources import SourceFile, fetch_source_file
from llmtrain_trainer.preparation.tally import Tally
from llmtrain_trainer.shards import SourceObject

MIN_RECORDS = 100
"""Below so many, one broken record is no rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What was read."""

    sources: list[SourceObject]
    tally: Tally
    num_rejected: int


def collect_documents(
    files: list[SourceFile],
    invalid: Invalid,
    accept: Callable[[Document], None],
    scratch: Path,
    rejected: Path,
    report: Callable[[], None],
) -> Collected:
    """Read all files, in their order.

    Args:
        files: of all sources.
        invalid: what becomes of records that cannot be read.
        accept: takes each document.
        scratch: folder for one source file at a time.
        rejected: file that lists what was left out, made where something was.
        report: called now and then, to say that work goes on.

    Raises:
        DataError: where a record cannot be read and none may be left out, or too many; where a
            file cannot be read on, or changed.
        StoreError: where the store fails.
    """
    sources = []
    rejections = _Rejections(invalid, rejected)
    tally = Tally("read")
    path = scratch / "source"
    for file in files:
        sources.append(fetch_source_file(file, path))
        report()
        for entry in read_documents(file, path):
            if isinstance(entry, Rejection):
                rejections.add(entry)
                tally.documents_in += 1
                tally.count_rule("unreadable", entry.place, entry.why)
            else:
                tally.count_text(entry.text, entry.text)
                accept(entry)
        path.unlink()
    rejections.check_rate(tally.documents_in)
    if tally.documents_out == 0:
        raise DataError(
            "data.sources: there is no document in any source",
            reason="SourceEmpty",
            next_step="upload files that hold text",
        )
    return Collected(sources=sources, tally=tally, num_rejected=rejections.count)


class _Rejections:
    """Applies the policy for records that cannot be read."""

    def __init__(self, invalid: Invalid, path: Path) -> None:
        self._invalid = invalid
        self._path = path
        self._first: Rejection | None = None
        self.count = 0

    def add(self, rejection: Rejection) -> None:
        if self._invalid.policy is InvalidPolicy.FAIL:
            raise explain_rejection(rejection)
        self._first = self._first or rejection
        self.count += 1
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"place": rejection.place, "why": rejection.why}) + "\n")

    def check_rate(self, num_records: int) -> None:
        if self._first is None:
            return
        allowed = self._invalid.max_rate * max(num_records, MIN_RECORDS)
        if self.count > allowed:
            raise DataError(
                f"{self.count} of {num_records} records cannot be read, more than"
                f" data.invalid.maxRate allows; the first: {self._first.place}: {self._first.why}",
                reason="TooManyInvalid",
                next_step="mend the sources, or raise data.invalid.maxRate",
            )
