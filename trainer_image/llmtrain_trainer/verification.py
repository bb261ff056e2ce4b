"""Which checkpoints a run has, whether one is whole, and which may go. Without torch.

Below: `manifest`, `store`. Above: `restore` before training, `checkpoint` after each save, and
`inspection`, for people.

Nothing is taken for a checkpoint by its name or its place in a listing: only a manifest makes one,
and only objects of the size and SHA-256 digest that it says make it whole.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from llmtrain_trainer.manifest import (
    CHECKPOINTS,
    MANIFEST,
    CheckpointManifest,
    describe_file,
    locate_step,
    read_step,
)
from llmtrain_trainer.store import Store

DAMAGED = "manifest.damaged.json"
"""Name that a damaged checkpoint's manifest is kept under, for people to look at."""


def list_steps(store: Store) -> list[int]:
    """Return the steps that have a manifest, newest first."""
    found = (
        read_step(item.key)
        for item in store.list_objects(CHECKPOINTS)
        if item.key.endswith(f"/{MANIFEST}")
    )
    return sorted({step for step in found if step is not None}, reverse=True)


def download_verified(store: Store, step: int, folder: Path) -> str | None:
    """Download a checkpoint to `folder`, flat; return what is damaged, None where it is whole."""
    data = store.read_bytes(locate_step(step) + MANIFEST)
    try:
        manifest = CheckpointManifest.model_validate_json(data)
    except ValidationError as error:
        return f"manifest.json: {error.errors()[0]['msg']}"
    for item in manifest.objects:
        stored = store.find_object(item.key)
        if stored is None:
            return f"{item.key} is missing"
        if stored.size != item.size:
            return f"{item.key} has {stored.size} bytes instead of {item.size}"
        path = folder / Path(item.key).name
        store.download(item.key, path)
        if describe_file(path, item.key) != item:
            return f"{item.key} has another SHA-256 digest than its manifest says"
    (folder / MANIFEST).write_bytes(data)
    return None


def set_aside(store: Store, step: int) -> None:
    """Free the step's manifest for the run that now repeats the step."""
    key = locate_step(step) + MANIFEST
    store.write_bytes(locate_step(step) + DAMAGED, store.read_bytes(key))
    store.delete(key)


def delete_old_checkpoints(store: Store, *, keep_last: int) -> None:
    """Delete all but the newest `keep_last` checkpoints, and what never became one.

    A manifest goes before its shards, so that whatever interrupts this leaves either a whole
    checkpoint or none. Objects newer than the newest checkpoint may be on their way: they stay.
    """
    keys: dict[int, list[str]] = {}
    for item in store.list_objects(CHECKPOINTS):
        step = read_step(item.key)
        if step is not None:
            keys.setdefault(step, []).append(item.key)
    committed = sorted(step for step in keys if locate_step(step) + MANIFEST in keys[step])
    if not committed:
        return
    kept = set(committed[-keep_last:])
    for step in sorted(keys):
        if step in kept or step > committed[-1]:
            continue
        for key in sorted(keys[step], key=lambda key: not key.endswith(MANIFEST)):
            store.delete(key)
