"""`llmtrain checkpoints`: the checkpoints of a run, listed, verified, pinned and pruned by hand.

Below: `verification`, `retention`, `store`. Above: `__main__`. No torch, so that it answers at
once; nothing of a checkpoint is run, only read.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from llmtrain_trainer.checkpoint.manifest import MANIFEST, CheckpointManifest, locate_step
from llmtrain_trainer.checkpoint.retention import (
    PINNED,
    Retention,
    delete_old_checkpoints,
    list_refusals,
)
from llmtrain_trainer.checkpoint.verification import download_verified, list_steps
from llmtrain_trainer.failures import StoreError
from llmtrain_trainer.store import Store

MEBIBYTE = 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A checkpoint, and what is damaged about it."""

    step: int
    damage: str | None


def print_checkpoints(store: Store, console: Console) -> int:
    """Print what every manifest says; the exit code is 0."""
    table = Table("step", "round", "ranks", "objects", "MiB", "committed", "loss", "", box=None)
    for step in list_steps(store):
        try:
            manifest = CheckpointManifest.model_validate_json(
                store.read_bytes(locate_step(step) + MANIFEST)
            )
        except ValidationError:
            table.add_row(str(step), "", "", "", "", "its manifest cannot be read")
            continue
        size = sum(item.size for item in manifest.objects) / MEBIBYTE
        created = datetime.fromtimestamp(manifest.created, UTC)
        table.add_row(
            str(step),
            str(manifest.round),
            str(manifest.world_size),
            str(len(manifest.objects)),
            f"{size:.1f}",
            created.isoformat(timespec="seconds"),
            "" if manifest.validation_loss is None else f"{manifest.validation_loss:.4f}",
            "pinned" if store.find_object(locate_step(step) + PINNED) else "",
        )
    if table.row_count:
        console.print(table)
    else:
        console.print(f"{store.uri} has no checkpoints")
    for step, refusals in sorted(list_refusals(store).items(), reverse=True):
        for why in refusals:
            console.print(f"step {step} was refused: {why}", highlight=False, soft_wrap=True)
    return 0


def pin_checkpoint(store: Store, console: Console, step: int, *, pinned: bool) -> int:
    """Keep a checkpoint from being deleted, or let it go; 1 where there is none of that step."""
    if step not in list_steps(store):
        console.print(f"{store.uri} has no checkpoint of step {step}", soft_wrap=True)
        return 1
    if pinned:
        store.write_bytes(locate_step(step) + PINNED, b"")
    else:
        store.delete(locate_step(step) + PINNED)
    console.print(f"step {step} is {'pinned' if pinned else 'no longer pinned'}", highlight=False)
    return 0


def print_verification(store: Store, console: Console) -> int:
    """Download every checkpoint and print whether it is whole; 1 where one is not."""
    is_damaged = False
    for verified in verify_checkpoints(store):
        said = "whole" if verified.damage is None else f"damaged: {verified.damage}"
        console.print(f"step {verified.step}: {said}", highlight=False, soft_wrap=True)
        is_damaged |= verified.damage is not None
    return int(is_damaged)


def prune_checkpoints(
    store: Store, console: Console, *, keep_last: int, with_refused: bool = False
) -> int:
    """Delete all but the newest `keep_last` checkpoints, if one of these is whole; else 1.

    So the last checkpoint that a run can go on from is never deleted. Pinned ones stay, and those
    that were refused, but `with_refused`.
    """
    kept = list_steps(store)[:keep_last]
    if not kept:
        console.print(f"{store.uri} has no checkpoints")
        return 0
    if not any(verified.damage is None for verified in verify_checkpoints(store, kept)):
        console.print(
            f"nothing is deleted: none of the newest {len(kept)} checkpoints is whole; "
            "keep more of them",
            soft_wrap=True,
        )
        return 1
    deleted = delete_old_checkpoints(store, Retention(last=keep_last), with_refused=with_refused)
    left = list_steps(store)
    console.print(f"{len(deleted)} deleted, {len(left)} kept: steps {left}", highlight=False)
    return 0


def verify_checkpoints(store: Store, steps: list[int] | None = None) -> Iterator[Verified]:
    """Download checkpoints, newest first, one at a time, and say of each whether it is whole."""
    for step in list_steps(store) if steps is None else steps:
        folder = Path(tempfile.mkdtemp(prefix="llmtrain-verify-"))
        try:
            yield Verified(step=step, damage=download_verified(store, step, folder))
        except StoreError as error:
            yield Verified(step=step, damage=error.message)
        finally:
            shutil.rmtree(folder)
