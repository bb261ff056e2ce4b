"""Records as documents: which field is the text, and what is no text.

Below: `document`. Above: `readers` gives every record to a `make_document`.
"""

from __future__ import annotations

import string
from dataclasses import replace
from datetime import date
from typing import Any

from llmtrain_api.sources import Source
from llmtrain_trainer.dataset.facts import Facts
from llmtrain_trainer.failures import ConfigurationError
from llmtrain_trainer.preparation.conversations import choose_conversation_maker
from llmtrain_trainer.preparation.document import Document, Rejection
from llmtrain_trainer.preparation.records import (
    TEXT_SETTING,
    MakeDocument,
    Needed,
    Record,
    read_field,
    refuse_missing,
)
from llmtrain_trainer.tokenizer.marks import remove_marks

SPLIT_SETTING, LABELS_SETTING = "splitField", "fields.labels"


def choose_maker(source: Source, index: int, field: str) -> tuple[MakeDocument, Needed]:
    """Return what makes documents of a source's records, and the fields that it needs.

    Args:
        source: how the records are read.
        index: of the source; its documents carry it.
        field: name of the source in the manifest, for messages.

    Raises:
        ConfigurationError: where the source's template is none.
    """
    make, needed = _choose_text_maker(source, index, field)
    values = _list_values(source)
    set_field = source.fields.labels if source.fields is not None else None
    if not values and set_field is None:
        return make, needed

    def make_with_values(record: Any, place: str) -> Document | Rejection:
        document = make(record, place)
        if isinstance(document, Rejection):
            return document
        read: dict[str, str] = {}
        for setting, name in values.items():
            value = _read_value(record, name, place, setting)
            if isinstance(value, Rejection):
                return value
            read[setting] = value
        labels = () if set_field is None else _read_labels(record, set_field, place)
        if isinstance(labels, Rejection):
            return labels
        facts = Facts(
            label=read.get("fields.label", ""),
            labels=labels,
            language=read.get("fields.language", ""),
            id=read.get("fields.id", ""),
        )
        return replace(document, key=read.get("splitField", ""), facts=facts)

    others = {name: setting for setting, name in values.items()}
    if set_field is not None:
        others[set_field] = LABELS_SETTING
    return make_with_values, needed | others


def _list_values(source: Source) -> dict[str, str]:
    """Return the fields whose values are kept of a record, by the settings that name them."""
    fields = source.fields
    wanted = {SPLIT_SETTING: source.split_field}
    if fields is not None:
        wanted |= {
            "fields.label": fields.label,
            "fields.language": fields.language,
            "fields.id": fields.id,
        }
    return {setting: name for setting, name in wanted.items() if name is not None}


def _choose_text_maker(source: Source, index: int, field: str) -> tuple[MakeDocument, Needed]:
    if source.fields is not None and source.fields.is_conversation:
        return choose_conversation_maker(source.fields, index)
    if source.template is None:
        name = source.text_field
        return lambda record, place: _take_field(record, name, place, index), {name: TEXT_SETTING}
    template = source.template
    names = _list_names(template, field)

    def fill(record: Any, place: str) -> Document | Rejection:
        return _fill_template(record, template, names, place, index)

    return fill, dict.fromkeys(names, TEXT_SETTING)


def make_text_document(text: str, place: str, index: int) -> Document | Rejection:
    """Make a document of a text that has no fields."""
    if not text:
        return Rejection(place, "the document is empty", "remove it, or give it text")
    return Document(remove_marks(text), place, index)


def _take_field(record: Any, field: str, place: str, index: int) -> Document | Rejection:
    text = read_field(record, field, place, TEXT_SETTING)
    return text if isinstance(text, Rejection) else make_text_document(text, place, index)


def _fill_template(
    record: Any, template: str, names: list[str], place: str, index: int
) -> Document | Rejection:
    values: dict[str, str] = {}
    for name in names:
        value = read_field(record, name, place, TEXT_SETTING)
        if isinstance(value, Rejection):
            return value
        values[name] = value
    if not any(values.values()):
        return make_text_document("", place, index)
    return Document(remove_marks(template.format(**values)), place, index)


def _read_value(record: Record, field: str, place: str, setting: str) -> str | Rejection:
    """Return what stands for a group, label, time, language or name."""
    if field not in record:
        return refuse_missing(field, record, place, setting)
    value = record[field]
    if isinstance(value, date):
        return value.isoformat()
    if value is None or value == "" or isinstance(value, list | dict):
        return Rejection(
            place,
            f"field {field!r} has no value" + (" to split by" if setting == SPLIT_SETTING else ""),
            f"give it one, or name another field in data.sources[].{setting}",
        )
    return str(value)


def _read_labels(record: Record, field: str, place: str) -> tuple[str, ...] | Rejection:
    """Return the labels of a record, sorted, each once."""
    if field not in record:
        return refuse_missing(field, record, place, LABELS_SETTING)
    value = record[field]
    if not isinstance(value, list) or any(
        label is None or label == "" or isinstance(label, list | dict) for label in value
    ):
        return Rejection(
            place,
            f"field {field!r} is no list of labels",
            'write it as ["one", "another"], or [] for none; a single class without a list is '
            "what data.sources[].fields.label is for",
        )
    return tuple(sorted({str(label) for label in value}))


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
