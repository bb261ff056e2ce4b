"""Resuming from the newest checkpoint that verifies.

Below: `verification` (which checkpoints there are, and whether one is whole), and
torch.distributed.checkpoint (DCP), which fits shards to any number of ranks. Above: `train`,
before its first step.

A checkpoint is what a manifest lists. It is downloaded once for each host and believed only
when sizes and SHA-256 digests agree; a damaged one is set aside and the one before it taken.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import HuggingFaceStorageReader

from llmtrain_trainer.failures import StoreError
from llmtrain_trainer.manifest import CURVE, MANIFEST, CheckpointManifest
from llmtrain_trainer.parallel import Ranks
from llmtrain_trainer.store import Store
from llmtrain_trainer.verification import download_verified, list_steps, set_aside

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A verified checkpoint, in a local folder."""

    manifest: CheckpointManifest
    curve: list[Any]
    """Points of the loss curve up to its step."""

    folder: Path


def fetch_newest_checkpoint(store: Store, ranks: Ranks) -> Checkpoint | None:
    """Return the newest checkpoint that verifies, or None where there is none yet.

    Every rank must call it; all get the same one.

    Raises:
        StoreError: where checkpoints exist and none of them verifies.
    """
    steps = list_steps(store) if ranks.is_first else None
    steps = ranks.share("restore/steps", steps, source=0)
    for step in steps:
        checkpoint, damage = _fetch(store, ranks, step)
        if ranks.all_agree(damage is None):
            return checkpoint
        if damage is not None:
            logger.warning(
                "checkpoint of step %d is damaged (%s); falling back to the one before",
                step,
                damage,
            )
        if checkpoint is not None and ranks.group.local_rank == 0:
            shutil.rmtree(checkpoint.folder)
        if ranks.is_first:
            set_aside(store, step)
    if steps:
        raise StoreError(
            f"none of the checkpoints of steps {', '.join(map(str, steps))} can be read",
            reason="CheckpointsDamaged",
            next_step="look at checkpoints/ of the run in the store; delete it to start anew",
        )
    return None


def load_tensors(checkpoint: Checkpoint, ranks: Ranks, tensors: Mapping[str, torch.Tensor]) -> None:
    """Fill the live `tensors` of this rank from a checkpoint; every rank must call it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one rank: meant
        dcp.load(
            dict(tensors),
            storage_reader=HuggingFaceStorageReader(str(checkpoint.folder)),
            no_dist=ranks.group.world_size == 1,
        )


def remove_folder(checkpoint: Checkpoint, ranks: Ranks) -> None:
    """Delete the local copy, when the ranks of this host are done with it."""
    ranks.wait()
    if ranks.group.local_rank == 0:
        shutil.rmtree(checkpoint.folder)


def _fetch(store: Store, ranks: Ranks, step: int) -> tuple[Checkpoint | None, str | None]:
    """Download one checkpoint to this host; return it, or what is damaged."""
    outcome = _download(store, step) if ranks.group.local_rank == 0 else None
    key = f"restore/{step}/{ranks.host_leader}"
    outcome = ranks.share(key, outcome, source=ranks.host_leader)
    if outcome["damage"] is not None:
        return None, str(outcome["damage"])
    folder = Path(outcome["folder"])
    manifest = CheckpointManifest.model_validate_json((folder / MANIFEST).read_bytes())
    curve = json.loads((folder / CURVE).read_text())
    return Checkpoint(manifest=manifest, curve=curve, folder=folder), None


def _download(store: Store, step: int) -> dict[str, str | None]:
    folder = Path(tempfile.mkdtemp(prefix="llmtrain-restore-"))
    damage = download_verified(store, step, folder)
    if damage is not None:
        shutil.rmtree(folder)
    return {"folder": str(folder), "damage": damage}
