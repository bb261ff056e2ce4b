"""Reading: every source is fetched and read, and what cannot be read meets the policy for it.

Below: `portions`, `readers`. Above: `reading`, by units; `corpus` for what must hold of all of them
together.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from llmtrain_api.recipe import Privacy
from llmtrain_api.sources import Invalid, InvalidPolicy
from llmtrain_trainer.dataset.document_index import digest_text
from llmtrain_trainer.dataset.shards import SourceObject
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.preparation.document import Document, Rejection
from llmtrain_trainer.preparation.erasure import NO_ERASURES, Erasures
from llmtrain_trainer.preparation.portions import (
    Portion,
    count_lines,
    count_lines_before,
    fetch_portion,
)
from llmtrain_trainer.preparation.quarantine import describe_record
from llmtrain_trainer.preparation.readers import explain_rejection, read_documents
from llmtrain_trainer.preparation.relabelling import NO_RELABELS, Relabels
from llmtrain_trainer.preparation.sources import SourceFile
from llmtrain_trainer.preparation.tally import Tally
from llmtrain_trainer.tokenizer.marks import show_text

logger = logging.getLogger(__name__)

MIN_RECORDS = 100
"""Below so many, one broken record is no rate."""

READ_STEP = "read"


class Collection:
    """The documents of source files or of portions of them, read once."""

    def __init__(
        self,
        portions: list[Portion],
        invalid: Invalid,
        privacy: Privacy,
        scratch: Path,
        rejected: Path,
        erasures: Erasures = NO_ERASURES,
        relabels: Relabels = NO_RELABELS,
    ) -> None:
        """Read `portions`, in their order.

        Args:
            portions: of all sources, or a part of them.
            invalid: what becomes of records that cannot be read.
            privacy: what becomes of personal data in those that are kept in quarantine.
            scratch: folder for one source file at a time.
            rejected: file that lists what was left out, made where something was.
            erasures: documents that must not be used.
            relabels: documents that get another label.
        """
        self._portions = portions
        self._invalid = invalid
        self._privacy = privacy
        self._path = scratch / "source"
        self._rejected = rejected
        self._erasures = erasures
        self._relabels = relabels
        self.sources: list[SourceObject] = []
        """Files that were begun so far."""

        self.num_lines = 0
        """Of portions that are not a whole file; lines of others are not counted."""
        self.tally = Tally(READ_STEP)

    def read(self, report: Callable[[], None]) -> Iterator[Document]:
        """Yield every document; `report` is called now and then, to say that work goes on.

        Raises:
            DataError: where a record cannot be read and none may be left out; where a file cannot
                be read on, or changed.
            StoreError: where the store fails.
        """
        for number, portion in enumerate(self._portions, start=1):
            logger.info("reads %s (%d of %d)", portion, number, len(self._portions))
            described = fetch_portion(portion, self._path)
            if described is not None:
                self.sources.append(described)
            if not portion.is_whole:
                self.num_lines += count_lines(self._path)
            report()
            try:
                yield from self._read(portion.file)
            except DataError:
                if portion.start == 0:
                    raise
                # Reading once more, to the same error, is all that the true line costs.
                for _ in self._read(portion.file, count_lines_before(portion)):
                    pass
                raise
            self._path.unlink()

    def _read(self, file: SourceFile, lines_before: int = 0) -> Iterator[Document]:
        for entry in read_documents(file, self._path, lines_before):
            if isinstance(entry, Rejection):
                self._reject(entry)
                continue
            document = replace(entry, digest=digest_text(show_text(entry.text)))
            if self._erasures.name(document):
                self.tally.count_text(document.text, None)
                self.tally.count_rule(document.place, "erased")
            else:
                self.tally.count_text(document.text, document.text)
                yield self._relabels.apply(document, self.tally)

    def _reject(self, rejection: Rejection) -> None:
        if self._invalid.policy is InvalidPolicy.FAIL:
            raise explain_rejection(rejection)
        self.tally.documents_in += 1
        line = {"place": rejection.place, "why": rejection.why}
        self.tally.count_rule(rejection.place, name_rule(self._invalid), rejection.why)
        if self._invalid.policy is InvalidPolicy.QUARANTINE:
            may_be_erased = bool(self._privacy.erase)
            line |= describe_record(rejection.record, self._privacy, may_be_erased=may_be_erased)
        with self._rejected.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def name_rule(invalid: Invalid) -> str:
    """Return the rule that counts records that cannot be read."""
    return "quarantined" if invalid.policy is InvalidPolicy.QUARANTINE else "unreadable"


def check_reading(files: list[SourceFile], invalid: Invalid, tally: Tally) -> None:
    """Check what reading all files brought.

    Raises:
        DataError: where too many records were left out; where there is no document.
    """
    rule = name_rule(invalid)
    num_rejected, total = tally.counts.get(rule, 0), tally.documents_in
    if num_rejected > invalid.max_rate * max(total, MIN_RECORDS):
        first = tally.examples[rule][0]
        raise DataError(
            f"{num_rejected} of {total} records cannot be read, more than"
            f" data.invalid.maxRate allows; the first: {first.place}: {first.measure}",
            reason="TooManyInvalid",
            next_step="mend the sources, or raise data.invalid.maxRate",
        )
    if tally.documents_out == 0:
        names = ", ".join(dict.fromkeys(file.field for file in files))
        loss = f"; {tally.tell_loss()}" if total else ""
        raise DataError(
            f"{names}: there is no document{loss}",
            reason="SourceEmpty",
            next_step="upload files that hold text that can be read",
        )
