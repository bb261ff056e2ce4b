"""Records of a source, and the text of one of their fields.

Below: `document`. Above: `fields` and `conversations` make documents of records.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmtrain_trainer.preparation.document import Document, Rejection

NUM_SHOWN_FIELDS = 10

Record = dict[str, Any]
MakeDocument = Callable[[Any, str], Document | Rejection]
"""Makes a document of a record (or of plain text) and its place."""


def read_field(record: Any, field: str, place: str) -> str | Rejection:
    """Return the text of a field, or why there is none."""
    if not isinstance(record, dict):
        return Rejection(place, "not a JSON object", "write each record as an object")
    if field not in record:
        shown = ", ".join(sorted(map(str, record))[:NUM_SHOWN_FIELDS]) or "none"
        return Rejection(
            place,
            f"no field {field!r}; the record has {shown}",
            "name the field that holds the text in data.sources[].textField or template",
        )
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
