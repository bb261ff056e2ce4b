"""The file of a part, read back by us, by safetensors, and by torch.distributed.checkpoint."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import HuggingFaceStorageReader

from llmtrain_trainer.checkpoint.division import divide_state
from llmtrain_trainer.checkpoint.part_file import copy_part, lay_out_part, name_part, read_part

STATE = {
    "weight": torch.randn(9, 4, generator=torch.Generator().manual_seed(0)),
    "half": torch.arange(6, dtype=torch.bfloat16),
    "double": torch.arange(3, dtype=torch.float64),
}
WORLD_SIZE = 2
HEADER_BYTES = 1024
"""Three tensors' names, shapes and places."""


def write_parts(folder: Path) -> list[Path]:
    paths = []
    for rank in range(WORLD_SIZE):
        pieces = divide_state(STATE, rank=rank, world_size=WORLD_SIZE)
        layout = lay_out_part(pieces)
        target = bytearray(layout.size)
        copy_part(layout, pieces, memoryview(target))
        paths.append(folder / name_part(rank, WORLD_SIZE))
        paths[-1].write_bytes(target)
    return paths


def test_parts_are_read_back(tmp_path: Path) -> None:
    for rank, path in enumerate(write_parts(tmp_path)):
        written = divide_state(STATE, rank=rank, world_size=WORLD_SIZE)
        read = {piece.name: piece for piece in read_part(path)}
        assert sorted(read) == sorted(piece.name for piece in written)
        for piece in written:
            assert read[piece.name].offset == piece.offset
            assert torch.equal(read[piece.name].data, piece.data)


def test_parts_are_safetensors_without_anything_more_than_the_state(tmp_path: Path) -> None:
    paths = write_parts(tmp_path)
    rows = [part["weight"] for part in map(load_file, paths) if "weight" in part]
    assert torch.equal(torch.cat(rows), STATE["weight"])
    state_bytes = sum(tensor.nbytes for tensor in STATE.values())
    assert sum(path.stat().st_size for path in paths) <= state_bytes + WORLD_SIZE * HEADER_BYTES


def test_torch_reads_the_parts_of_all_ranks(tmp_path: Path) -> None:
    write_parts(tmp_path)
    loaded = {name: torch.zeros_like(tensor) for name, tensor in STATE.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own about a single process
        dcp.load(loaded, storage_reader=HuggingFaceStorageReader(str(tmp_path)), no_dist=True)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in STATE.items())
