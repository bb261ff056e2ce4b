"""Tables by columns, Parquet and Arrow, as records.

Below: pyarrow; `unpack` for the bound on what may come out. Above: `readers`.

Hugging Face datasets are such tables; numbers of their classes become the names that the table's
schema has for them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from llmtrain_trainer.failures import DataError
from llmtrain_trainer.preparation.document import Document, Rejection
from llmtrain_trainer.preparation.records import MakeDocument, Needed, refuse_missing
from llmtrain_trainer.preparation.unpack import explain_bomb

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE = 1024

ARROW_MAGIC = b"ARROW1"
"""Begins an Arrow file; an Arrow stream, which `datasets` writes, begins otherwise."""

FEATURES_KEY = b"huggingface"
"""Of a schema's metadata: what `datasets` knows of the columns."""


def read_parquet(
    stream: BinaryIO, name: str, make: MakeDocument, needed: Needed, limit: int
) -> Iterator[Document | Rejection]:
    """Yield what `make` makes of each row of a Parquet file.

    Args:
        stream: the file.
        name: of the file.
        make: makes a document of a record and its place.
        needed: columns that it looks at; no others are read.
        limit: bytes that may come out of these columns.

    Raises:
        DataError: where the file cannot be read on, or lacks a column.
    """
    from pyarrow import parquet

    # Its table of contents is at its end, so that a packed one is held in memory.
    seekable = stream if stream.seekable() else io.BytesIO(stream.read())
    with _explaining(f"{name}: not a Parquet file"):
        table = parquet.ParquetFile(seekable)
        schema = table.schema_arrow
        check_columns(schema.names, needed, name)
        batches = table.iter_batches(batch_size=ROWS_AT_ONCE, columns=list(needed))
    yield from make_documents(batches, schema, name, make, limit)


def read_arrow(
    stream: BinaryIO, name: str, make: MakeDocument, needed: Needed, limit: int
) -> Iterator[Document | Rejection]:
    """Yield what `make` makes of each row of an Arrow file or stream; see `read_parquet`."""
    from pyarrow import ipc

    seekable = stream if stream.seekable() else io.BytesIO(stream.read())
    is_file = seekable.read(len(ARROW_MAGIC)) == ARROW_MAGIC
    seekable.seek(0)
    with _explaining(f"{name}: not an Arrow file"):
        if is_file:
            file = ipc.open_file(seekable)
            schema = file.schema
            batches = (file.get_batch(number) for number in range(file.num_record_batches))
        else:
            batches = ipc.open_stream(seekable)
            schema = batches.schema
        check_columns(schema.names, needed, name)
    chosen = (batch.select(list(needed)) for batch in batches)
    yield from make_documents(chosen, schema, name, make, limit)


def check_columns(columns: list[str], needed: Needed, name: str) -> None:
    """Check that a table has the columns that are needed.

    Raises:
        DataError: where it lacks one.
    """
    if missing := [field for field in needed if field not in columns]:
        setting = needed[missing[0]]
        refused = refuse_missing(missing[0], columns, name, setting, "the table")
        raise _refuse(f"{name}: {refused.why}", refused.next_step)


def make_documents(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    name: str,
    make: MakeDocument,
    limit: int,
) -> Iterator[Document | Rejection]:
    """Yield what `make` makes of each row of the batches of a table; see `read_parquet`."""
    classes = read_classes(schema)
    batches, number = iter(batches), 0
    while True:
        with _explaining(f"{name}:row {number + 1}: the table cannot be read on"):
            batch = next(batches, None)
            if batch is None:
                return
            # What a file says of where its values lie is not to be believed.
            batch.validate(full=True)
        limit -= batch.nbytes
        if limit < 0:  # columns are packed too, and a dictionary unpacks a value for each row
            raise explain_bomb(name)
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            rows = batch.slice(start, ROWS_AT_ONCE)
            last = number + rows.num_rows
            with _explaining(f"{name}:row {number + 1} to {last}: a value cannot be read"):
                records = rows.to_pylist()
            for record in records:
                number += 1
                for column, names in classes.items():
                    if column in record:
                        record[column] = _name_class(record[column], names)
                yield make(record, f"{name}:row {number}")


def read_classes(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the names of classes of each column that holds numbers of classes."""
    try:
        features = json.loads((schema.metadata or {})[FEATURES_KEY])["info"]["features"]
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}  # not written by `datasets`


def _name_class(number: Any, names: list[str]) -> Any:
    """Return the name of a class; None for -1, by which `datasets` says that there is none."""
    if isinstance(number, int) and number < len(names):
        return names[number] if number >= 0 else None
    return number


@contextmanager
def _explaining(problem: str) -> Iterator[None]:
    """Make a `DataError` of what pyarrow raises in the block.

    UnicodeDecodeError is a ValueError, and MemoryError what a damaged length asks for.
    """
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, MemoryError, OSError, OverflowError, ValueError) as error:
        raise _refuse(f"{problem}: {error}", "write the file anew, texts as UTF-8") from None


def _refuse(message: str, next_step: str) -> DataError:
    return DataError(message, reason="DocumentInvalid", next_step=next_step)
