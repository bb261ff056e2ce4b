"""Sources as documents: which objects they are, and the text in them.

Below: `store`. Above: `prepare`.

What cannot be read is refused by name, object and line, because text that silently goes missing
is found only much later, in the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from llmtrain_api.data import Source, SourceFormat
from llmtrain_api.run import StorageConfig
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.shards import SourceObject
from llmtrain_trainer.store import Store, StoredObject, open_store, split_uri

JSONL_SUFFIXES = (".jsonl", ".ndjson")
GLOB_CHARACTERS = "*?["


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """An object of a source, and how it is read."""

    store: Store
    """Rooted at the bucket."""

    stored: StoredObject
    format: SourceFormat
    text_field: str

    @property
    def uri(self) -> str:
        """Where it lies."""
        return f"{self.store.uri}/{self.stored.key}"

    def describe(self) -> SourceObject:
        """Return what a manifest says of it."""
        return SourceObject(uri=self.uri, size=self.stored.size, etag=self.stored.etag)


def find_source_files(source: Source, config: StorageConfig, *, field: str) -> list[SourceFile]:
    """Return the objects that a source names, in order of their keys.

    Args:
        source: an object, a prefix that ends in /, or a glob whose * does not stop at /.
        config: how the store is reached.
        field: name of the source in the manifest, for messages.

    Raises:
        DataError: where it names none.
        StoreError: where the store fails or lacks the bucket.
    """
    bucket, key = split_uri(source.uri)
    store = open_store(f"s3://{bucket}", config)
    if any(character in key for character in GLOB_CHARACTERS):
        prefix = key[: min(key.find(c) for c in GLOB_CHARACTERS if c in key)]
        found = [item for item in store.list_objects(prefix) if fnmatchcase(item.key, key)]
    elif not key or key.endswith("/"):
        found = list(store.list_objects(key))
    else:
        found = [item for item in store.list_objects(key) if item.key == key]
    # Consoles make empty objects whose key ends in / and show them as folders.
    found = [item for item in found if not item.key.endswith("/")]
    if not found:
        raise DataError(
            f"{field}.uri: no object matches {source.uri}",
            reason="SourceEmpty",
            next_step="upload the text there, or correct the URI; a prefix ends in /",
        )
    return [
        SourceFile(
            store=store,
            stored=item,
            format=source.format or _guess_format(item.key),
            text_field=source.text_field,
        )
        for item in found
    ]


def read_documents(file: SourceFile, path: Path) -> Iterator[str]:
    """Yield the text of every document of a source file, downloaded to `path`.

    Raises:
        DataError: naming the object, and the line where it has lines.
    """
    if file.format is SourceFormat.TEXT:
        yield _require_text(_decode(path.read_bytes(), file.uri), file.uri)
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _read_line(line, file.text_field, f"{file.uri}:{number}")


def _read_line(line: bytes, text_field: str, place: str) -> str:
    try:
        record = json.loads(_decode(line, place))
    except json.JSONDecodeError as error:
        raise _refuse(
            f"{place}: not valid JSON: {error.msg.removesuffix(' at')} at column {error.colno}",
            "correct the line; a JSON lines file has one JSON object on each",
        ) from None
    if not isinstance(record, dict):
        raise _refuse(f"{place}: not a JSON object", "write each line as an object")
    if text_field not in record:
        fields = ", ".join(sorted(record)[:10]) or "none"
        raise _refuse(
            f"{place}: no field {text_field!r}; the line has {fields}",
            "name the field that holds the text in data.sources[].textField",
        )
    text = record[text_field]
    if not isinstance(text, str):
        raise _refuse(
            f"{place}: field {text_field!r} is {type(text).__name__}, not text",
            "write the text as a JSON string",
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _refuse(
            f"{place}: field {text_field!r} has half of a surrogate pair, which is no text",
            "correct the \\u escapes of the line",
        ) from None
    return _require_text(text, place)


def _decode(data: bytes, place: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start)
        where = f"line {line + 1}, byte {error.start}" if line else f"byte {error.start}"
        raise _refuse(f"{place}: not valid UTF-8 at {where}", "convert the text to UTF-8") from None


def _require_text(text: str, place: str) -> str:
    if not text:
        raise _refuse(f"{place}: the document is empty", "remove it, or give it text")
    return text


def _refuse(message: str, next_step: str) -> DataError:
    return DataError(message, reason="DocumentInvalid", next_step=next_step)


def _guess_format(key: str) -> SourceFormat:
    return SourceFormat.JSONL if key.endswith(JSONL_SUFFIXES) else SourceFormat.TEXT
