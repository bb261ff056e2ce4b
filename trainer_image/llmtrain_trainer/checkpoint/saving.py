"""Saving the training state: staged in memory, uploaded while training goes on.

Below, in the order of use: `division` (this rank's share of the state), `part_file` and `staging`
(one copy into shared memory, all that training waits for), `uploader` (a process of its own),
`store`, `manifest`. Above: `train`. The way back is `restore`.

Each rank saves its share and tells rank 0 through the round's key-value store; when all have,
rank 0 creates the manifest. Until then the objects are no checkpoint, and the manifest of another
round is never replaced.

A store that fails costs a save and not the run: training goes on, and the next save that is due
tries again. Only whoever needs a save (the last one, or before leaving) waits for the store.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import transformers

from llmtrain_trainer.checkpoint.division import divide_state
from llmtrain_trainer.checkpoint.manifest import (
    CURVE,
    MANIFEST,
    CheckpointManifest,
    locate_round,
    locate_step,
)
from llmtrain_trainer.checkpoint.part_file import PartLayout, copy_part, lay_out_part
from llmtrain_trainer.checkpoint.retention import Retention, delete_old_checkpoints
from llmtrain_trainer.checkpoint.staging import StagingArea, StagingFullError
from llmtrain_trainer.checkpoint.uploader import Staged, Uploader
from llmtrain_trainer.failures import StoreError
from llmtrain_trainer.parallel import Ranks
from llmtrain_trainer.store import ObjectExistsError, Store
from llmtrain_trainer.store.described import ManifestObject

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
    pretrained: str | None = None
    """Digest of weights that are not saved, since they are frozen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of a run after a step; its tensors are live until they are staged."""

    step: int
    tensors: Mapping[str, torch.Tensor]
    curve: list[dict[str, float]]
    run_seconds: float
    """How long the run has worked, over all its rounds."""

    @property
    def validation_loss(self) -> float | None:
        """The newest loss on held-out text."""
        name = "validationLoss"
        return next((point[name] for point in reversed(self.curve) if name in point), None)


class Checkpointer:
    """Saves of one rank, at most one of them on its way."""

    def __init__(
        self,
        store: Store,
        ranks: Ranks,
        facts: RunFacts,
        *,
        area: StagingArea,
        uploader: Uploader,
        retention: Retention,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Save to `store`, rooted at the run, by way of `area` and `uploader`.

        `clock` gives Unix seconds.
        """
        self._store = store
        self._ranks = ranks
        self._facts = facts
        self._area = area
        self._uploader = uploader
        self._layout: PartLayout | None = None
        self._retention = retention
        self._clock = clock
        self._messages = ranks.connect_store()
        self._thread: threading.Thread | None = None
        self._num_saves = 0
        self._store_failure: StoreError | None = None
        self._defect: BaseException | None = None
        self._committed_step: int | None = None
        self._begun_at = 0.0
        self.save_seconds = 0.0
        """On rank 0: how long the newest committed save took."""
        self.begun_step: int | None = None
        """Step of the newest checkpoint that was begun, or resumed from."""

    @property
    def is_busy(self) -> bool:
        """Whether a save of this rank is still on its way."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, snapshot: Snapshot) -> None:
        """Copy this rank's part to memory and start its upload.

        Every rank must call it with the same step, and only when none is busy.
        """
        assert not self.is_busy
        self.check()
        self._num_saves += 1
        self._begun_at = time.monotonic()
        self.begun_step = snapshot.step
        self._store_failure = None
        failure: StoreError | None = None
        files: list[Staged] = []
        try:
            files = self._stage(snapshot)
        except StagingFullError as error:
            failure = error
        self._thread = threading.Thread(
            target=self._finish,
            args=(self._describe(snapshot), files, failure, f"checkpoint/{self._num_saves}"),
            name=f"checkpoint-{snapshot.step}",
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
        snapshot: Snapshot,
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
        step = snapshot.step
        while not self._ranks.all_agree(self.begun_step == step and self.store_failure is None):
            if self.begun_step == step:
                # All ranks give up together: a rank whose own part is saved as well.
                if not self._ranks.all_agree(time.monotonic() < deadline):
                    raise self.store_failure or StoreError(
                        "another rank could not save its part", reason="StorageFailed"
                    )
                time.sleep(pause)
                pause = min(2 * pause, MAX_PAUSE_SECONDS)
            self.begin(snapshot)
            self.wait()
            on_try()

    def discard_staged(self) -> None:
        """Forget what is staged in memory, so that no later rank resumes from it."""
        self._area.break_seal()

    def take_committed_step(self) -> int | None:
        """On rank 0, return the step of a checkpoint committed since the last call, if any."""
        step, self._committed_step = self._committed_step, None
        return step

    def close(self) -> None:
        """End the uploading process; what it was at is lost."""
        self._uploader.close()

    def _stage(self, snapshot: Snapshot) -> list[Staged]:
        """Copy this rank's part to memory; this is all of a save that training waits for."""
        group = self._ranks.group
        pieces = divide_state(snapshot.tensors, rank=group.rank, world_size=group.world_size)
        if self._layout is None:
            self._layout = lay_out_part(pieces)
        copy_part(self._layout, pieces, self._area.prepare(self._layout.size))
        paths = [self._area.path]
        if self._ranks.is_first:
            paths.append(self._area.path.with_name(CURVE))
            paths[-1].write_text(json.dumps(snapshot.curve), encoding="utf-8")
        prefix = locate_round(snapshot.step, group.round)
        return [Staged(path=path, key=prefix + path.name) for path in paths]

    def _finish(
        self,
        manifest: CheckpointManifest,
        files: Sequence[Staged],
        failure: StoreError | None,
        messages: str,
    ) -> None:
        """Upload this rank's part and, on rank 0, commit; `messages` is this save's key prefix."""
        try:
            try:
                if failure is not None:
                    raise failure
                objects = self._uploader.upload(
                    files, on_digest=lambda own: self._area.seal(_list_objects(manifest, own))
                )
            except StoreError as error:
                self._tell(messages, {"failure": error.message})
                raise
            self._tell(messages, {"objects": [item.dump() for item in objects]})
            if self._ranks.is_first:
                self._commit(manifest, objects, messages)
                self._area.note_commit()
                self.save_seconds = time.monotonic() - self._begun_at
                self._committed_step = manifest.step
                delete_old_checkpoints(self._store, self._retention)
        except StoreError as error:
            logger.warning("the save of step %d failed: %s", manifest.step, error.message)
            self._store_failure = error
        except BaseException as error:  # crosses to the training thread
            self._defect = error

    def _tell(self, messages: str, part: dict[str, Any]) -> None:
        if self._messages is not None and not self._ranks.is_first:
            self._messages.set(f"{messages}/{self._ranks.group.rank}", json.dumps(part))

    def _commit(
        self, manifest: CheckpointManifest, own: list[ManifestObject], messages: str
    ) -> None:
        group = self._ranks.group
        objects = list(own)
        for rank in range(1, group.world_size):
            objects += self._hear_part(f"{messages}/{rank}", rank)
        prefix = locate_round(manifest.step, manifest.round)
        stored = {item.key: item.size for item in self._store.list_objects(prefix)}
        for item in objects:
            if stored.get(item.key) != item.size:
                raise StoreError(
                    f"{item.key} has {stored.get(item.key, 0)} bytes in the store after an upload "
                    f"of {item.size}",
                    reason="StorageFailed",
                )
        key = locate_step(manifest.step) + MANIFEST
        whole = _list_objects(manifest, objects)
        try:
            self._store.create_bytes(key, whole.model_dump_json(by_alias=True).encode())
        except ObjectExistsError:
            # An earlier round committed this step, or a retried request had arrived after all.
            logger.info("step %d has a checkpoint already; it stays as it is", manifest.step)

    def _describe(self, snapshot: Snapshot) -> CheckpointManifest:
        """Return the manifest of a save, as far as it is known before any object is."""
        return CheckpointManifest(
            step=snapshot.step,
            round=self._ranks.group.round,
            world_size=self._ranks.group.world_size,
            created=self._clock(),
            run_seconds=snapshot.run_seconds,
            validation_loss=snapshot.validation_loss,
            dataset=self._facts.dataset,
            arithmetic=self._facts.arithmetic,
            pretrained=self._facts.pretrained,
            versions={"torch": torch.__version__, "transformers": transformers.__version__},
            objects=[],
        )

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


def _list_objects(
    manifest: CheckpointManifest, objects: list[ManifestObject]
) -> CheckpointManifest:
    return manifest.model_copy(update={"objects": objects})
