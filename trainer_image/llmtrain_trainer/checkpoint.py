"""Saving the training state: staged to local files, uploaded while training goes on.

Below: torch.distributed.checkpoint (DCP), which gives each rank its part and no tensor twice;
`store`; `manifest`. Above: `train`. The way back is `restore`.

Shards are safetensors, so that reading one runs no code. Each rank uploads its own part and
tells rank 0 through the round's key-value store; when all have, rank 0 creates the manifest.
Until then the objects are no checkpoint, and the manifest of another round is never replaced.

A store that fails costs a save and not the run: training goes on, and the next save that is due
tries again. Only whoever needs a save (the last one, or before leaving) waits for the store.
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
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import HuggingFaceStorageWriter

from llmtrain_trainer.failures import StoreError
from llmtrain_trainer.manifest import (
    CURVE,
    MANIFEST,
    CheckpointManifest,
    ManifestObject,
    describe_file,
    locate_round,
    locate_step,
)
from llmtrain_trainer.parallel import Ranks
from llmtrain_trainer.store import ObjectExistsError, Store
from llmtrain_trainer.verification import delete_old_checkpoints

logger = logging.getLogger(__name__)

STORE_WAIT_SECONDS = 1800.0
"""How long a save that must be made waits for the store. A pod that leaves has its own limit."""

FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 1.0, 30.0
"""Between two tries of it."""

UPLOAD_TIMEOUT = timedelta(hours=6)
"""How much longer than rank 0 another rank may take to upload its part."""


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
        self._num_saves = 0
        self._store_failure: StoreError | None = None
        self._defect: BaseException | None = None
        self._committed_step: int | None = None
        self.begun_step: int | None = None
        """Step of the newest checkpoint that was begun, or resumed from."""

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
        self._num_saves += 1
        self.begun_step = step
        self._store_failure = None
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
            target=self._finish,
            args=(step, folder, f"checkpoint/{self._num_saves}"),
            name=f"checkpoint-{step}",
            daemon=True,
        )
        self._thread.start()

    def check(self) -> None:
        """Raise what a save that ended has met, unless it is the store's failure."""
        if not self.is_busy and self._defect is not None:
            defect, self._defect = self._defect, None
            raise defect

    @property
    def store_failure(self) -> StoreError | None:
        """Why the newest save failed on this rank, if the store has failed it."""
        return None if self.is_busy else self._store_failure

    def wait(self) -> None:
        """Wait for the save on its way; raises like `check`."""
        if self._thread is not None:
            self._thread.join()
        self.check()

    def save_surely(
        self,
        step: int,
        tensors: Mapping[str, torch.Tensor],
        curve: list[Any],
        *,
        on_try: Callable[[], None],
    ) -> None:
        """Return once a step has a checkpoint; a store that is down is waited for.

        Every rank must call it with the same step. `on_try` is called after each try.

        Raises:
            StoreError: the store did not come back in time.
        """
        self.wait()
        deadline = time.monotonic() + STORE_WAIT_SECONDS
        pause = FIRST_PAUSE_SECONDS
        while not self._ranks.all_agree(self.begun_step == step and self.store_failure is None):
            if self.begun_step == step:
                # All ranks give up together: a rank whose own part is saved as well.
                if not self._ranks.all_agree(time.monotonic() < deadline):
                    raise self.store_failure or StoreError(
                        "another rank could not save its part", reason="StorageFailed"
                    )
                time.sleep(pause)
                pause = min(2 * pause, MAX_PAUSE_SECONDS)
            self.begin(step, tensors, curve)
            self.wait()
            on_try()

    def take_committed_step(self) -> int | None:
        """On rank 0, return the step of a checkpoint committed since the last call, if any."""
        step, self._committed_step = self._committed_step, None
        return step

    def _finish(self, step: int, folder: Path, messages: str) -> None:
        """Upload this rank's part and, on rank 0, commit; `messages` is this save's key prefix."""
        try:
            try:
                objects = self._upload(step, folder)
            except StoreError as error:
                self._tell(messages, {"failure": error.message})
                raise
            self._tell(messages, {"objects": [item.dump() for item in objects]})
            if self._ranks.is_first:
                self._commit(step, objects, messages)
                self._committed_step = step
                delete_old_checkpoints(self._store, keep_last=self._keep_last)
        except StoreError as error:
            logger.warning("the save of step %d failed: %s", step, error.message)
            self._store_failure = error
        except BaseException as error:  # crosses to the training thread
            self._defect = error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _tell(self, messages: str, part: dict[str, Any]) -> None:
        if self._messages is not None and not self._ranks.is_first:
            self._messages.set(f"{messages}/{self._ranks.group.rank}", json.dumps(part))

    def _upload(self, step: int, folder: Path) -> list[ManifestObject]:
        prefix = locate_round(step, self._ranks.group.round)
        objects = []
        for path in sorted(folder.iterdir()):
            item = describe_file(path, prefix + path.name)
            self._store.upload(item.key, path)
            objects.append(item)
        return objects

    def _commit(self, step: int, own: list[ManifestObject], messages: str) -> None:
        group = self._ranks.group
        objects = list(own)
        for rank in range(1, group.world_size):
            objects += self._hear_part(f"{messages}/{rank}", rank)
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

    def _hear_part(self, key: str, rank: int) -> list[ManifestObject]:
        """Wait for another rank's part of a save."""
        assert self._messages is not None
        self._messages.wait([key], UPLOAD_TIMEOUT)
        part = json.loads(self._messages.get(key))
        if "failure" in part:
            raise StoreError(
                f"rank {rank} could not save its part: {part['failure']}", reason="StorageFailed"
            )
        return [ManifestObject.model_validate(item) for item in part["objects"]]
