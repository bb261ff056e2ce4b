"""Saving the training state: staged to local files, uploaded while training goes on.

Below: torch.distributed.checkpoint (DCP), which gives each rank its part and no tensor twice;
`store`; `manifest`. Above: `train`. The way back is `restore`.

Shards are safetensors, so that reading one runs no code. Each rank uploads its own part and
tells rank 0 through the round's key-value store; when all have, rank 0 creates the manifest.
Until then the objects are no checkpoint, and the manifest of another round is never replaced.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import HuggingFaceStorageWriter

from llmtrain_trainer.manifest import (
    CHECKPOINTS,
    CURVE,
    MANIFEST,
    CheckpointManifest,
    ManifestObject,
    describe_file,
    locate_round,
    locate_step,
    read_step,
)
from llmtrain_trainer.parallel import Ranks
from llmtrain_trainer.store import ObjectExistsError, Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a manifest says about the run besides its tensors."""

    dataset: str
    arithmetic: dict[str, Any]


class Checkpointer:
    """Saves of one rank, at most one of them on its way."""

    def __init__(
        self,
        store: Store,
        ranks: Ranks,
        facts: RunFacts,
        *,
        keep_last: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Save to `store`, rooted at the run; `clock` gives Unix seconds."""
        self._store = store
        self._ranks = ranks
        self._facts = facts
        self._keep_last = keep_last
        self._clock = clock
        self._messages = ranks.connect_store()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._committed_step: int | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a save of this rank is still on its way."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, step: int, tensors: Mapping[str, torch.Tensor], curve: list[Any]) -> None:
        """Copy this rank's part to local files and start its upload.

        Every rank must call it with the same step, and only when none is busy.
        """
        assert not self.is_busy
        self.check()
        folder = Path(tempfile.mkdtemp(prefix="llmtrain-checkpoint-"))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one rank: meant
            dcp.save(
                dict(tensors),
                storage_writer=HuggingFaceStorageWriter(path=str(folder), save_distributed=True),
                no_dist=self._ranks.group.world_size == 1,
            )
        if self._ranks.is_first:
            (folder / CURVE).write_text(json.dumps(curve))
        self._thread = threading.Thread(
            target=self._finish, args=(step, folder), name=f"checkpoint-{step}", daemon=True
        )
        self._thread.start()

    def check(self) -> None:
        """Raise what a save that ended has met.

        Raises:
            StoreError: where the store failed.
        """
        if not self.is_busy and self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def wait(self) -> None:
        """Wait for the save on its way; raises like `check`."""
        if self._thread is not None:
            self._thread.join()
        self.check()

    def take_committed_step(self) -> int | None:
        """On rank 0, return the step of a checkpoint committed since the last call, if any."""
        step, self._committed_step = self._committed_step, None
        return step

    def _finish(self, step: int, folder: Path) -> None:
        try:
            objects = self._upload(step, folder)
            if self._messages is not None:
                part = json.dumps([item.dump() for item in objects])
                self._messages.set(f"checkpoint/{step}/{self._ranks.group.rank}", part)
            if self._ranks.is_first:
                self._commit(step, objects)
                self._committed_step = step
                delete_old_checkpoints(self._store, keep_last=self._keep_last)
        except BaseException as error:  # crosses to the training thread
            self._failure = error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _upload(self, step: int, folder: Path) -> list[ManifestObject]:
        prefix = locate_round(step, self._ranks.group.round)
        objects = []
        for path in sorted(folder.iterdir()):
            item = describe_file(path, prefix + path.name)
            self._store.upload(item.key, path)
            objects.append(item)
        return objects

    def _commit(self, step: int, own: list[ManifestObject]) -> None:
        group = self._ranks.group
        objects = list(own)
        if self._messages is not None:
            for rank in range(1, group.world_size):
                part = json.loads(self._messages.get(f"checkpoint/{step}/{rank}"))
                objects += [ManifestObject.model_validate(item) for item in part]
        manifest = CheckpointManifest(
            step=step,
            round=group.round,
            world_size=group.world_size,
            created=self._clock(),
            dataset=self._facts.dataset,
            arithmetic=self._facts.arithmetic,
            versions={"torch": torch.__version__, "transformers": transformers.__version__},
            objects=objects,
        )
        key = locate_step(step) + MANIFEST
        try:
            self._store.create_bytes(key, manifest.model_dump_json(by_alias=True).encode())
        except ObjectExistsError:
            # An earlier round committed this step, or a retried request had arrived after all.
            logger.info("step %d has a checkpoint already; it stays as it is", step)


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
