"""Resuming: from the memory of the hosts where all of it is there, else from the store.

Below: `staging` (what earlier ranks of this round's processes left in memory), `verification`
(which checkpoints the store has, and whether one is whole), `part_file` (blocks of tensors, which
fit any number of ranks). Above: `train`, before its first step.

What is in memory is believed when every rank has its part of the same step and the digests agree:
so a restart of processes needs no store. A checkpoint in the store is what a manifest lists. It
is downloaded once for each host and believed only when sizes and digests agree; a damaged one is
set aside and the one before it taken.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed.tensor import DTensor

from llmtrain_trainer.checkpoint.division import (
    Copy,
    Piece,
    divide_shard,
    divide_state,
    find_local,
)
from llmtrain_trainer.checkpoint.manifest import CURVE, MANIFEST, CheckpointManifest
from llmtrain_trainer.checkpoint.part_file import copy_overlap, name_part, read_part
from llmtrain_trainer.checkpoint.retention import refuse_checkpoint
from llmtrain_trainer.checkpoint.staging import StagingArea
from llmtrain_trainer.checkpoint.verification import download_verified, list_steps
from llmtrain_trainer.failures import ConfigurationError, StoreError
from llmtrain_trainer.parallel import Ranks
from llmtrain_trainer.store import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A verified checkpoint, in a local folder."""

    manifest: CheckpointManifest
    """Of one that was found in memory: what this rank's seal says."""

    curve: list[Any]
    """Points of the loss curve up to its step."""

    folder: Path

    parts: Sequence[Path]
    """Files of the parts that lie on this host."""

    in_memory: bool
    """Whether it was found in the hosts' memory."""

    is_committed: bool
    """Whether the run's store is known to have it."""

    refused: dict[int, str] = field(default_factory=dict)
    """Newer checkpoints that were refused, by step, and why."""


def find_staged_checkpoint(area: StagingArea, ranks: Ranks) -> Checkpoint | None:
    """Return what the hosts have in memory, if it is whole and of one step on all ranks.

    Every rank must call it; all get the same one. The store is not asked.
    """
    group = ranks.group
    part = area.find_part()
    told = None
    if ranks.is_first and part is not None:
        curve = json.loads(part.path.with_name(CURVE).read_text(encoding="utf-8"))
        told = {"step": part.seal.step, "committed": part.is_committed, "curve": curve}
    told = ranks.share("restore/staged", told, source=0)
    is_mine = (
        told is not None
        and part is not None
        and (part.seal.step, part.seal.world_size) == (told["step"], group.world_size)
    )
    if not ranks.all_agree(is_mine):
        return None
    assert part is not None
    on_host = range(ranks.host_leader, ranks.host_leader + group.local_world_size)
    return Checkpoint(
        manifest=part.seal,
        curve=told["curve"],
        folder=part.path.parent,
        parts=[area.find_neighbour(name_part(rank, group.world_size)) for rank in on_host],
        in_memory=True,
        is_committed=told["committed"],
    )


def fetch_newest_checkpoint(
    store: Store,
    ranks: Ranks,
    *,
    is_foreign: bool = False,
    only_step: int | None = None,
    purpose: str = "restore",
) -> Checkpoint | None:
    """Return the newest checkpoint that verifies, or None where there is none yet.

    Every rank must call it; all get the same one. Those that do not verify are marked, unless
    `is_foreign`: they are of another run, or only looked at. Each call of a round has another
    `purpose`.

    Raises:
        StoreError: where checkpoints exist and none of them verifies.
    """
    steps = list_steps(store) if ranks.is_first else None
    steps = ranks.share(
        f"{purpose}/foreign-steps" if is_foreign else f"{purpose}/steps", steps, source=0
    )
    if only_step is not None:
        steps = [step for step in steps if step == only_step]
    damages: dict[int, str] = {}
    for step in steps:
        checkpoint, damage = _fetch(store, ranks, step, purpose)
        if ranks.all_agree(damage is None):
            assert checkpoint is not None
            # Only now: where none is whole, all stay as they are, and the run does not begin anew.
            if ranks.is_first and not is_foreign:
                for each, why in damages.items():
                    refuse_checkpoint(store, each, why)
            return replace(checkpoint, refused=damages)
        damages[step] = damage or "another host cannot read it"
        logger.warning("the checkpoint of step %d is refused: %s", step, damages[step])
        if checkpoint is not None and ranks.group.local_rank == 0:
            shutil.rmtree(checkpoint.folder)
    if steps:
        raise StoreError(
            f"none of the checkpoints of steps {', '.join(map(str, steps))} is whole: "
            f"{damages[steps[0]]}",
            reason="CheckpointsDamaged",
            next_step="look at checkpoints/ of the run in the store; delete it to start anew",
        )
    return None


def load_tensors(checkpoint: Checkpoint, ranks: Ranks, tensors: Mapping[str, torch.Tensor]) -> None:
    """Fill the live `tensors` of this rank from a checkpoint; every rank must call it.

    Raises:
        ConfigurationError: the checkpoint is of another model.
    """
    targets = {name: find_local(name, tensor) for name, tensor in tensors.items()}
    missing = {name: target.data.numel() for name, target in targets.items()}
    for path in checkpoint.parts:
        for source in read_part(path):
            if source.name in targets and _is_within(source, tensors[source.name]):
                missing[source.name] -= copy_overlap(source, targets[source.name])
    if checkpoint.in_memory and ranks.num_hosts > 1:
        _exchange_parts(ranks, tensors)
        missing = {}
    incomplete = [name for name, count in missing.items() if count]
    if incomplete:
        raise ConfigurationError(
            f"the checkpoint of step {checkpoint.manifest.step} is of another model: it lacks "
            f"{len(incomplete)} of {len(targets)} tensors or parts of them, as {incomplete[0]}",
            reason="CheckpointIncompatible",
            next_step="use the same spec.model as the run that wrote it",
        )


def _is_within(block: Piece, tensor: torch.Tensor) -> bool:
    """Whether a block can be one of this tensor, by its place and size."""
    return block.data.ndim == tensor.ndim and all(
        begin + length <= size
        for begin, length, size in zip(block.offset, block.data.shape, tensor.shape, strict=True)
    )


def _exchange_parts(ranks: Ranks, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give every rank the parts that only other hosts have in memory.

    Of sharded tensors each rank has its own already, or the rows of it that its host has saved.
    """
    for name, tensor in tensors.items():
        # Only over the first dimension of a mesh copies are on several hosts.
        if isinstance(tensor, DTensor) and tensor.placements[0].is_replicate():
            group = tensor.device_mesh.get_group(0)
            for number in range(group.size()):
                piece = divide_shard(name, tensor, Copy(number=number, count=group.size()))
                source = distributed.get_global_rank(group, number)
                distributed.broadcast(piece.data, src=source, group=group)
    whole = {name: t for name, t in tensors.items() if not isinstance(t, DTensor)}
    for rank in range(ranks.group.world_size):
        for piece in divide_state(whole, rank=rank, world_size=ranks.group.world_size):
            distributed.broadcast(piece.data, src=rank)


def remove_folder(checkpoint: Checkpoint, ranks: Ranks) -> None:
    """Delete what was downloaded, when the ranks of this host are done with it."""
    ranks.wait()
    if ranks.group.local_rank == 0 and not checkpoint.in_memory:
        shutil.rmtree(checkpoint.folder)


def _fetch(
    store: Store, ranks: Ranks, step: int, purpose: str
) -> tuple[Checkpoint | None, str | None]:
    """Download one checkpoint to this host; return it, or what is damaged."""
    outcome = _download(store, step) if ranks.group.local_rank == 0 else None
    key = f"{purpose}/{store.uri}/{step}/{ranks.host_leader}"
    outcome = ranks.share(key, outcome, source=ranks.host_leader)
    if outcome["damage"] is not None:
        return None, str(outcome["damage"])
    folder = Path(outcome["folder"])
    manifest = CheckpointManifest.model_validate_json((folder / MANIFEST).read_bytes())
    curve = json.loads((folder / CURVE).read_text())
    return Checkpoint(
        manifest=manifest,
        curve=curve,
        folder=folder,
        parts=sorted(folder.glob("*.safetensors")),
        in_memory=False,
        is_committed=True,
    ), None


def _download(store: Store, step: int) -> dict[str, str | None]:
    folder = Path(tempfile.mkdtemp(prefix="llmtrain-restore-"))
    damage = download_verified(store, step, folder)
    if damage is not None:
        shutil.rmtree(folder)
    return {"folder": str(folder), "damage": damage}
