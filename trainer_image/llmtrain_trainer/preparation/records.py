"""Records of a source, and the text of one of their fields.

Below: `document`. Above: `fields` and `conversations` make documents of records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from llmtrain_trainer.preparation.document import Document, Rejection

NUM_SHOWN_FIELDS = 10

Record = dict[str, Any]
MakeDocument = Callable[[Any, str], Document | Rejection]
"""Makes a document of a record (or of plain text) and its place."""

Needed = dict[str, str]
"""Fields that are read of records, each with the setting of a source that names it."""

TEXT_SETTING = "textField or template"


def read_field(record: Any, field: str, place: str, setting: str) -> str | Rejection:
    """Return the text of a field, or why there is none; `setting` of the source names it."""
    if not isinstance(record, dict):
        return Rejection(place, "not a JSON object", "write each record as an object")
    if field not in record:
        return refuse_missing(field, record, place, setting)
    text = record[field]
    if not isinstance(text, str):
        return Rejection(
            place,
            f"field {field!r} is {type(text).__name__}, not text",
            "write the text as a string",
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        return Rejection(
            place,
            f"field {field!r} has half of a surrogate pair, which is no text",
            "correct the \\u escapes of the record",
        )
    return text


def refuse_missing(
    field: str, present: Iterable[str], place: str, setting: str, what: str = "the record"
) -> Rejection:
    """Refuse a record, or the head of a table, without a field; say which ones there are."""
    names = [*map(str, present)]
    shown = ", ".join(names[:NUM_SHOWN_FIELDS]) or "none"
    if len(names) > NUM_SHOWN_FIELDS:
        shown += f" and {len(names) - NUM_SHOWN_FIELDS} more"
    return Rejection(
        place,
        f"no field {field!r}; {what} has {shown}",
        f"add it, or name another field in data.sources[].{setting}",
    )
