"""Which format a source file has, by the manifest or by its name.

Below: `unpack`, for endings that only say how a file is packed. Above: `readers`, and `portions`,
which divides files of some formats.
"""

from __future__ import annotations

from llmtrain_api.sources import Source, SourceFormat
from llmtrain_trainer.preparation.unpack import is_packed, strip_packing

FORMATS_BY_SUFFIX = {
    ".jsonl": SourceFormat.JSONL,
    ".ndjson": SourceFormat.JSONL,
    ".json": SourceFormat.JSON,
    ".csv": SourceFormat.CSV,
    ".tsv": SourceFormat.TSV,
    ".parquet": SourceFormat.PARQUET,
    ".arrow": SourceFormat.ARROW,
    ".html": SourceFormat.HTML,
    ".htm": SourceFormat.HTML,
}


def choose_format(source: Source, name: str) -> SourceFormat:
    """Return how a file of a source is read."""
    if source.format in (None, SourceFormat.HUGGINGFACE):
        return guess_format(name)
    return source.format


def guess_format(name: str) -> SourceFormat:
    """Return the format that the ending of a file's name speaks of."""
    suffix = "." + strip_packing(name.lower()).rpartition(".")[2]
    return FORMATS_BY_SUFFIX.get(suffix, SourceFormat.TEXT)


def has_records_in_lines(source: Source, name: str) -> bool:
    """Return whether each line of a file can be read without those before it."""
    return choose_format(source, name) is SourceFormat.JSONL and not is_packed(name)
