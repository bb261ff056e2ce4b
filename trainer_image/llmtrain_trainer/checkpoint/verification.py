"""Which checkpoints a run has, and whether one is whole. Without torch.

Below: `manifest`, `store`. Above: `restore` before training, and `inspection`, for people.

Nothing is taken for a checkpoint by its name or its place in a listing: only a manifest makes one,
and only objects of the size and SHA-256 digest that it says make it whole.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from llmtrain_trainer.checkpoint.manifest import (
    CHECKPOINTS,
    MANIFEST,
    CheckpointManifest,
    locate_step,
    read_step,
)
from llmtrain_trainer.store import Store
from llmtrain_trainer.store.described import describe_file


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
    if not manifest.objects:
        return "manifest.json lists no objects"
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
