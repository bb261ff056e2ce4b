"""Documents packed into rows of one length, so that none is cut where it need not be.

Below: `shards`. Above: `prepare` writes the training split by it where the recipe asks for it.

Best fit: a document goes into the open row with the least room that suffices, which wastes little
and cuts nothing that fits a row (Ding et al. 2024, Fewer Truncations Improve Language Modeling, who
sort all documents first). Rows are packed as documents come: at most 1,024 are open, and where one
more is needed the fullest is written. So memory is bounded, and documents change places a little.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field

import numpy as np

from llmtrain_api.shaping import Overlong
from llmtrain_trainer.dataset.facts import NO_FACTS, Facts
from llmtrain_trainer.dataset.shards import ShardWriter, SplitManifest
from llmtrain_trainer.tokenizer.arrays import RoleArray, TokenArray
from llmtrain_trainer.tokenizer.marks import Role

OPEN_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """A document, or a part of it, in a row."""

    tokens: TokenArray
    roles: RoleArray
    num_bytes: int
    facts: Facts


@dataclass(slots=True)
class Row:
    """A row that is not yet written."""

    room: int
    entries: list[Entry] = field(default_factory=list)


class RowPacker:
    """Writes documents as rows; used as a `ShardWriter`."""

    def __init__(
        self,
        writer: ShardWriter,
        row_tokens: int,
        end_of_text: int,
        overlong: Overlong,
        open_rows: int = OPEN_ROWS,
    ) -> None:
        """Pack rows for `writer`, which keeps roles.

        Args:
            writer: writes the rows.
            row_tokens: of every row, padding included.
            end_of_text: the token that is padding, too.
            overlong: what becomes of longer documents.
            open_rows: how many rows are in memory.
        """
        assert writer.with_roles
        self._writer = writer
        self._row_tokens = row_tokens
        self._end_of_text = end_of_text
        self._overlong = overlong
        self._open_rows = open_rows
        self._order: list[tuple[int, int]] = []
        """Room and number of each open row, the fullest first."""
        self._rows: dict[int, Row] = {}
        self._next = 0
        self._truncated = 0
        self._divided = 0

    @property
    def with_roles(self) -> bool:
        """Whether the role of each token is kept."""
        return True

    @property
    def num_tokens(self) -> int:
        """Tokens written or waiting, without padding."""
        waiting = sum(self._row_tokens - row.room for row in self._rows.values())
        return self._writer.num_tokens - self._writer.num_padding + waiting

    def append(
        self,
        document: TokenArray,
        *,
        num_bytes: int,
        roles: RoleArray | None = None,
        facts: Facts = NO_FACTS,
    ) -> None:
        """Pack a document's tokens, which end with end of text; see `ShardWriter.append`."""
        assert roles is not None
        if len(document) > self._row_tokens and self._overlong is Overlong.TRUNCATE:
            self._truncated += 1
            document = document[: self._row_tokens].copy()
            document[-1] = self._end_of_text
            roles = roles[: self._row_tokens]
        self._divided += len(document) > self._row_tokens
        for start in range(0, len(document), self._row_tokens):
            part = slice(start, start + self._row_tokens)
            # Its bytes are counted once.
            size = num_bytes if start == 0 else 0
            self._place(Entry(document[part], roles[part], size, facts))

    def finish(self) -> SplitManifest | None:
        """Write the rows that are open; return what was written, or None where nothing was."""
        for number in sorted(self._rows):
            self._write(self._rows[number])
        self._rows.clear()
        self._order.clear()
        split = self._writer.finish()
        if split is None:
            return None
        counts = {"num_truncated": self._truncated, "num_divided": self._divided}
        return split.model_copy(update=counts)

    def _place(self, entry: Entry) -> None:
        length = len(entry.tokens)
        where = bisect_left(self._order, (length, -1))
        if where < len(self._order):
            _, number = self._order.pop(where)
            row = self._rows[number]
        else:
            number, row = self._next, Row(self._row_tokens)
            self._next += 1
            self._rows[number] = row
        row.entries.append(entry)
        row.room -= length
        if row.room == 0:
            self._write(self._rows.pop(number))
            return
        insort(self._order, (row.room, number))
        if len(self._order) > self._open_rows:
            _, fullest = self._order.pop(0)
            self._write(self._rows.pop(fullest))

    def _write(self, row: Row) -> None:
        for entry in row.entries:
            self._writer.append(
                entry.tokens, num_bytes=entry.num_bytes, roles=entry.roles, facts=entry.facts
            )
        if row.room:
            padding = np.full(row.room, self._end_of_text, dtype=row.entries[0].tokens.dtype)
            self._writer.append_padding(padding, np.full(row.room, Role.PADDING, dtype=np.uint8))
