"""Records as documents: which field is the text, and what is no text.

Below: `document`. Above: `readers` gives every record to a `make_document`.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

from llmtrain_api.sources import Source
from llmtrain_trainer.failures import ConfigurationError
from llmtrain_trainer.preparation.document import Document, Rejection

NUM_SHOWN_FIELDS = 10

Record = dict[str, Any]
MakeDocument = Callable[[Any, str], Document | Rejection]
"""Makes a document of a record (or of plain text) and its place."""


def choose_maker(source: Source, index: int, field: str) -> tuple[MakeDocument, list[str]]:
    """Return what makes documents of a source's records, and the fields that it needs.

    Args:
        source: how the records are read.
        index: of the source; its documents carry it.
        field: name of the source in the manifest, for messages.

    Raises:
        ConfigurationError: where the source's template is none.
    """
    make, names = _choose_text_maker(source, index, field)
    key_field = source.split_field
    if key_field is None:
        return make, names

    def make_with_key(record: Any, place: str) -> Document | Rejection:
        document = make(record, place)
        if isinstance(document, Rejection):
            return document
        key = _read_key(record, key_field, place)
        return key if isinstance(key, Rejection) else replace(document, key=key)

    return make_with_key, [*dict.fromkeys([*names, key_field])]


def _choose_text_maker(source: Source, index: int, field: str) -> tuple[MakeDocument, list[str]]:
    if source.template is None:
        name = source.text_field
        return lambda record, place: _take_field(record, name, place, index), [name]
    template = source.template
    names = _list_names(template, field)

    def fill(record: Any, place: str) -> Document | Rejection:
        return _fill_template(record, template, names, place, index)

    return fill, names


def make_text_document(text: str, place: str, index: int) -> Document | Rejection:
    """Make a document of a text that has no fields."""
    if not text:
        return Rejection(place, "the document is empty", "remove it, or give it text")
    return Document(text, place, index)


def _take_field(record: Any, field: str, place: str, index: int) -> Document | Rejection:
    text = _read_text(record, field, place)
    return text if isinstance(text, Rejection) else make_text_document(text, place, index)


def _fill_template(
    record: Any, template: str, names: list[str], place: str, index: int
) -> Document | Rejection:
    values: dict[str, str] = {}
    for name in names:
        if isinstance(value := _read_text(record, name, place), Rejection):
            return value
        values[name] = value
    if not any(values.values()):
        return make_text_document("", place, index)
    return Document(template.format(**values), place, index)


def _read_text(record: Any, field: str, place: str) -> str | Rejection:
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


def _read_key(record: Record, field: str, place: str) -> str | Rejection:
    """Return what stands for a group, label or time."""
    value = record.get(field)
    if isinstance(value, date):
        return value.isoformat()
    if value is None or value == "" or isinstance(value, list | dict):
        return Rejection(
            place,
            f"field {field!r} has no value to split by",
            "give it one, or name another field in data.sources[].splitField",
        )
    return str(value)


def _list_names(template: str, field: str) -> list[str]:
    """Return the fields that a template names: plain ones, since records are not trusted."""
    try:
        parts = [part[1:] for part in string.Formatter().parse(template)]
    except ValueError as error:
        raise _refuse_template(field, str(error)) from None
    names = [(name, rest) for name, *rest in parts if name is not None]
    for name, rest in names:
        if not name.isidentifier() or any(rest):
            raise _refuse_template(field, f"{{{name}}} is not the name of a field")
    if not names:
        raise _refuse_template(field, "it names no field")
    return sorted({name for name, _ in names})


def _refuse_template(field: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"{field}.template: {why}",
        reason="TemplateInvalid",
        next_step="name fields as {field}, and write braces as {{ and }}",
    )
