"""A part of the training state as one file: safetensors, so that reading it runs no code.

Below: torch, for views of memory. Above: `saving` writes it straight into shared memory,
`restore` reads it in place.

The header has, besides what safetensors asks for, where in the whole tensor each block lies, in
the words of torch.distributed.checkpoint: its `HuggingFaceStorageReader` reads these files, too.

    8 bytes: length of the header | header (JSON, padded with spaces) | blocks, one after another
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmtrain_trainer.checkpoint.division import Piece
from llmtrain_trainer.failures import ConfigurationError

LENGTH = struct.Struct("<Q")
ALIGNMENT_BYTES = 64
"""Of the first block: that of a cache line."""

TYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
}
TYPES = {name: kind for kind, name in TYPE_NAMES.items()}

METADATA = "__metadata__"
SHARDING_INFO = "DCP_SHARDING_INFO"
SAVED_OFFSETS = "saved_offsets"
VERSIONS = {"format": "pt", "DCP_VERSION": "1.0"}


def name_part(rank: int, world_size: int) -> str:
    """Name the file of a rank's part."""
    return f"part-{rank:05d}-of-{world_size:05d}.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartLayout:
    """Where everything lies in the file of a part. The same for every save of a round."""

    header: bytes
    starts: tuple[int, ...]
    """First byte of each piece."""

    size: int
    """Bytes of the whole file."""


def lay_out_part(pieces: Sequence[Piece]) -> PartLayout:
    """Decide where each piece lies."""
    entries: dict[str, Any] = {}
    offsets: dict[str, Any] = {}
    position = 0
    places = []
    # Wider types first, so that every block is aligned.
    for index, piece in sorted(enumerate(pieces), key=lambda item: -item[1].data.itemsize):
        places.append((index, position))
        entries[piece.name] = {
            "dtype": TYPE_NAMES[piece.data.dtype],
            "shape": list(piece.data.shape),
            "data_offsets": [position, position + piece.data.nbytes],
        }
        offsets[piece.name] = {SAVED_OFFSETS: list(piece.offset)}
        position += piece.data.nbytes
    metadata = {**VERSIONS, SHARDING_INFO: json.dumps(offsets)}
    text = json.dumps({METADATA: metadata, **entries}).encode()
    padding = -(LENGTH.size + len(text)) % ALIGNMENT_BYTES
    header = LENGTH.pack(len(text) + padding) + text + b" " * padding
    starts = [0] * len(pieces)
    for index, place in places:
        starts[index] = len(header) + place
    return PartLayout(header=header, starts=tuple(starts), size=len(header) + position)


def copy_part(layout: PartLayout, pieces: Sequence[Piece], target: memoryview) -> None:
    """Copy the pieces and their header to `target`, which has the layout's size."""
    target[: len(layout.header)] = layout.header
    for start, piece in zip(layout.starts, pieces, strict=True):
        block = torch.frombuffer(
            target, dtype=piece.data.dtype, count=piece.data.numel(), offset=start
        )
        block.view(piece.data.shape).copy_(piece.data)


def read_part(path: Path) -> Iterator[Piece]:
    """Yield the pieces of a part's file; their data is the file, mapped into memory.

    Raises:
        ConfigurationError: it is something else, which is not tried.
    """
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    try:
        (length,) = LENGTH.unpack_from(mapped)
        begin = LENGTH.size + length
        header = json.loads(mapped[LENGTH.size : begin])
        offsets = json.loads(header.pop(METADATA)[SHARDING_INFO])
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise ConfigurationError(
            f"{path.name} of the checkpoint is no safetensors file of a part",
            reason="UnsafeArtifact",
            next_step="see who else writes to the run's store: other formats, as pickles, would "
            "run code where they are read, and are refused",
        ) from None
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        kind = TYPES[entry["dtype"]]
        data = torch.frombuffer(
            mapped, dtype=kind, count=(last - first) // kind.itemsize, offset=begin + first
        )
        yield Piece(
            name=name,
            offset=tuple(offsets[name][SAVED_OFFSETS]),
            data=data.view(entry["shape"]),
        )


def copy_overlap(source: Piece, target: Piece) -> int:
    """Copy what two blocks of the same tensor have in common; return the number of elements."""
    source_view, target_view = source.data, target.data
    starts = zip(source.offset, source.data.shape, target.offset, target.data.shape, strict=True)
    for dimension, (from_start, from_size, to_start, to_size) in enumerate(starts):
        begin = max(from_start, to_start)
        length = min(from_start + from_size, to_start + to_size) - begin
        if length <= 0:
            return 0
        source_view = source_view.narrow(dimension, begin - from_start, length)
        target_view = target_view.narrow(dimension, begin - to_start, length)
    target_view.copy_(source_view)
    return target_view.numel()
