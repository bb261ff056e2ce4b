"""Source files as documents, whatever their format; what cannot be read has a place and a reason.

Below: `unpack` for streams, `fields` for what a record means, `formats`; `json_stream`, `columnar`
and `html` for some of them. Above: `collect`, which decides what becomes of a rejection.

A record that cannot be read is yielded as a `Rejection`, and reading goes on behind it. A file
after whose error nothing can be found again ends with a `DataError`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from llmtrain_api.sources import SourceFormat
from llmtrain_trainer.failures import DataError
from llmtrain_trainer.preparation.columnar import read_arrow, read_parquet
from llmtrain_trainer.preparation.document import Document, Rejection
from llmtrain_trainer.preparation.fields import choose_maker, make_text_document
from llmtrain_trainer.preparation.formats import choose_format
from llmtrain_trainer.preparation.html import MAX_DEPTH, decode_html, extract_text, is_too_deep
from llmtrain_trainer.preparation.json_stream import JsonStreamError, iterate_values
from llmtrain_trainer.preparation.portions import MAX_RECORD_BYTES
from llmtrain_trainer.preparation.records import MakeDocument, Needed, refuse_missing
from llmtrain_trainer.preparation.sources import SourceFile
from llmtrain_trainer.preparation.unpack import limit_unpacked, open_members

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Entries = Iterator[Document | Rejection]


def read_documents(file: SourceFile, path: Path, lines_before: int = 0) -> Entries:
    """Yield the documents of a source file, or a portion of one, and what is none.

    Args:
        file: that was found.
        path: where its bytes are, or those of the portion.
        lines_before: of a portion: from how many on its lines are numbered.

    Raises:
        ConfigurationError: where the source's template is none.
        DataError: where the rest of the file cannot be read.
    """
    make_unkept, needed = choose_maker(file.source, file.index, file.field)

    def make(record: Any, place: str) -> Document | Rejection:
        return _keep_record(make_unkept(record, place), record)

    for name, stream in open_members(path, file.uri):
        match choose_format(file.source, name):
            case SourceFormat.TEXT:
                yield _read_whole(stream, name, file, _decode)
            case SourceFormat.HTML:
                yield _read_whole(stream, name, file, _decode_html)
            case SourceFormat.JSONL:
                yield from _read_lines(stream, name, make, lines_before)
            case SourceFormat.JSON:
                yield from _read_json(stream, name, make)
            case SourceFormat.PARQUET:
                yield from read_parquet(stream, name, make, needed, limit_unpacked(path))
            case SourceFormat.ARROW:
                yield from read_arrow(stream, name, make, needed, limit_unpacked(path))
            case SourceFormat.CSV:
                yield from _read_table(stream, name, make, needed, delimiter=",")
            case SourceFormat.TSV:
                yield from _read_table(stream, name, make, needed, delimiter="\t")


def _read_whole(
    stream: BinaryIO, place: str, file: SourceFile, decode: Callable[[bytes, str], str | Rejection]
) -> Document | Rejection:
    if file.source.split_field is not None:
        why = f"a text has no field {file.source.split_field!r} to split by"
        return Rejection(place, why, "choose another data.split.method, or a format with fields")
    if file.source.fields is not None:
        why = "a text has none of the fields of data.sources[].fields"
        return Rejection(place, why, "remove fields, or choose a format with fields")
    content = stream.read()
    text = decode(content.removeprefix(BYTE_ORDER_MARK), place)
    if isinstance(text, Rejection):
        return _keep_record(text, content)
    return make_text_document(text, place, file.index)


def _read_lines(stream: BinaryIO, name: str, make: MakeDocument, lines_before: int) -> Entries:
    for number, line in _iterate_lines(stream, name, lines_before):
        if not line.strip():
            continue
        place = f"{name}:{number}"
        text = _decode(line, place)
        entry = text if isinstance(text, Rejection) else _parse_line(text, place, make)
        yield _keep_record(entry, line)


def _parse_line(text: str, place: str, make: MakeDocument) -> Document | Rejection:
    advice = "correct the line; a JSON lines file has one JSON object on each"
    try:
        return make(json.loads(text.rstrip("\r\n")), place)
    except json.JSONDecodeError as error:
        why = f"not valid JSON: {error.msg.removesuffix(' at')} at column {error.colno}"
    except (ValueError, RecursionError) as error:
        # A number of more digits than Python reads, or brackets without end.
        why = f"not valid JSON: {error}"
    return Rejection(place, why, advice)


def _read_json(stream: BinaryIO, name: str, make: MakeDocument) -> Entries:
    try:
        for line, value in iterate_values(stream):
            yield make(value, f"{name}:{line}")
    except JsonStreamError as error:
        raise _refuse(
            f"{name}:{error.line}: not valid JSON: {error.why}",
            "correct the file; it is one array of objects, or objects one after the other",
            "EncodingInvalid" if error.is_encoding else "DocumentInvalid",
        ) from None


def _read_table(
    stream: BinaryIO, name: str, make: MakeDocument, needed: Needed, *, delimiter: str
) -> Entries:
    csv.field_size_limit(MAX_RECORD_BYTES)
    of_row: list[str] = []
    lines = _decode_lines(stream, name, of_row)
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        place = f"{name}:{rows.line_num + 1}"
        of_row.clear()
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            if header is None:
                raise _refuse(f"{place}: not a header: {error}", "correct the table") from None
            broken = Rejection(place, f"not a row: {error}", "correct the quotes of the row")
            yield _keep_record(broken, "".join(of_row))
            continue
        if not row:
            continue
        if header is None:
            header = _check_header(row, place, needed)
        elif len(row) != len(header):
            why = f"the row has {len(row)} fields, the header has {len(header)}"
            advice = "correct the row; fields with line ends need quotes"
            yield _keep_record(Rejection(place, why, advice), "".join(of_row))
        else:
            entry = make(dict(zip(header, row, strict=True)), place)
            yield _keep_record(entry, "".join(of_row))


def _check_header(header: list[str], place: str, needed: Needed) -> list[str]:
    for field, setting in needed.items():
        if field not in header:
            missing = refuse_missing(field, header, place, setting, "the header")
            raise explain_rejection(missing)
    if len(set(header)) < len(header):
        twice = next(field for field in header if header.count(field) > 1)
        raise _refuse(f"{place}: field {twice!r} occurs twice", "give each field its own name")
    return header


def _iterate_lines(
    stream: BinaryIO, name: str, lines_before: int = 0
) -> Iterator[tuple[int, bytes]]:
    number = lines_before
    while line := stream.readline(MAX_RECORD_BYTES + 1):
        number += 1
        if len(line) > MAX_RECORD_BYTES:
            raise _refuse(
                f"{name}:{number}: the line is longer than {MAX_RECORD_BYTES} bytes",
                "divide it, or name the file's format in data.sources[].format",
            )
        # Not of the first line alone: files put one behind the other have several.
        yield number, line.removeprefix(BYTE_ORDER_MARK)


def _decode_lines(stream: BinaryIO, name: str, seen: list[str]) -> Iterator[str]:
    """Yield the lines of a stream as text, and append each to `seen`."""
    for number, line in _iterate_lines(stream, name):
        text = _decode(line, f"{name}:{number}")
        if isinstance(text, Rejection):
            # Where a row ends depends on its quotes, which cannot be read.
            raise explain_rejection(text)
        seen.append(text)
        yield text


def _keep_record(entry: Document | Rejection, record: Any) -> Document | Rejection:
    """Return a rejection with what was found: bytes, text, or a value that is written as JSON."""
    if not isinstance(entry, Rejection):
        return entry
    if not isinstance(record, bytes | str):
        record = json.dumps(record, ensure_ascii=False, default=str)
    if isinstance(record, str):
        record = record.encode(errors="backslashreplace")  # half of a surrogate pair is no text
    return replace(entry, record=record)


def _decode(data: bytes, place: str) -> str | Rejection:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start)
        where = f"line {line + 1}, byte {error.start}" if line else f"byte {error.start}"
        why = f"not valid UTF-8 at {where}"
        return Rejection(place, why, "convert the text to UTF-8", reason="EncodingInvalid")


def _decode_html(data: bytes, place: str) -> str | Rejection:
    text = decode_html(data)
    if text is None:
        why = "neither valid UTF-8 nor valid in the encoding that the page declares"
        return Rejection(place, why, "convert the page to UTF-8", reason="EncodingInvalid")
    if is_too_deep(text):
        why = f"elements lie more than {MAX_DEPTH} deep in each other"
        return Rejection(place, why, "remove the page, or close its elements")
    return extract_text(text)


def _refuse(message: str, next_step: str, reason: str = "DocumentInvalid") -> DataError:
    return DataError(message, reason=reason, next_step=next_step)


def explain_rejection(rejection: Rejection) -> DataError:
    """Return the failure that a rejection is where nothing may be left out."""
    message = f"{rejection.place}: {rejection.why}"
    return _refuse(message, rejection.next_step, rejection.reason)
