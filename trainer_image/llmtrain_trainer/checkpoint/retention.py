"""Which checkpoints stay: the newest, milestones, the best, those to be evaluated, pinned ones.

Below: `manifest`, `store`. Above: `saving` after each save, `inspection` by hand. No torch.

What was refused on resuming is kept for people to look at, until they prune it themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from llmtrain_api.checkpoint import CheckpointSpec
from llmtrain_trainer.checkpoint.manifest import (
    CHECKPOINTS,
    MANIFEST,
    CheckpointManifest,
    locate_step,
    read_step,
)
from llmtrain_trainer.store import Store

PINNED = "pinned"
"""Name of the empty object that keeps a checkpoint."""

REFUSED_PREFIX = "refused-"
"""Begins the names of records of checkpoints that were refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What is kept besides pinned checkpoints. The newest always is."""

    last: int = 1
    """So many of the newest."""

    every_steps: int | None = None
    """All whose step is a multiple of this."""

    best: int = 0
    """So many of those with the lowest held-out loss."""

    steps: frozenset[int] = frozenset()
    """Those of these steps."""

    @classmethod
    def read(
        cls, spec: CheckpointSpec, *, with_best: bool = False, steps: frozenset[int] = frozenset()
    ) -> Retention:
        """Return what a job asks for.

        Args:
            spec: of the job.
            with_best: whether the best one stays in any case.
            steps: whose checkpoints stay in any case.
        """
        best = max(spec.keep_best, int(with_best))
        return cls(last=spec.keep_last, every_steps=spec.keep_every, best=best, steps=steps)


def choose_kept(
    steps: Sequence[int], losses: Mapping[int, float], pinned: set[int], retention: Retention
) -> set[int]:
    """Return which of the committed `steps` stay; `losses` are their held-out losses, if known."""
    kept = set(sorted(steps)[-max(1, retention.last) :])
    kept |= (pinned | retention.steps) & set(steps)
    if retention.every_steps is not None:
        kept |= {step for step in steps if step % retention.every_steps == 0}
    ranked = sorted((losses[step], step) for step in steps if step in losses)
    return kept | {step for _, step in ranked[: retention.best]}


def delete_old_checkpoints(
    store: Store, retention: Retention, *, with_refused: bool = False
) -> list[int]:
    """Delete the checkpoints that need not stay, and what never became one; return their steps.

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
        return []
    pinned = {step for step in committed if locate_step(step) + PINNED in keys[step]}
    losses = read_losses(store, committed) if retention.best else {}
    kept = choose_kept(committed, losses, pinned, retention)
    for step in sorted(keys):
        if step > committed[-1]:
            continue
        refused = _list_refused(store, keys[step])
        doomed = refused if with_refused else set()
        if step not in kept:
            doomed |= set(keys[step]) - refused
        for key in sorted(doomed, key=lambda key: not key.endswith(MANIFEST)):
            store.delete(key)
    return [step for step in committed if step not in kept]


def refuse_checkpoint(store: Store, step: int, why: str) -> None:
    """Mark a checkpoint so that it is never chosen again, and free the step for the run.

    Its objects stay, and the record names them.
    """
    prefix = locate_step(step)
    data = store.read_bytes(prefix + MANIFEST)
    keys = [item.key for item in store.list_objects(prefix) if _is_content(item.key)]
    record = {"why": why, "keys": keys, "manifest": data.decode(errors="replace")}
    number = sum(_is_refusal(item.key) for item in store.list_objects(prefix))
    name = f"{REFUSED_PREFIX}{number + 1:03d}.json"
    store.write_bytes(prefix + name, json.dumps(record, indent=1).encode())
    store.delete(prefix + MANIFEST)


def list_refusals(store: Store) -> dict[int, list[str]]:
    """Return why checkpoints were refused, by step."""
    refusals: dict[int, list[str]] = {}
    for item in store.list_objects(CHECKPOINTS):
        step = read_step(item.key)
        if step is not None and _is_refusal(item.key):
            record = json.loads(store.read_bytes(item.key))
            refusals.setdefault(step, []).append(record["why"])
    return refusals


def read_losses(store: Store, steps: Sequence[int]) -> dict[int, float]:
    """Return the newest held-out loss that each checkpoint knew, of those that knew one."""
    losses = {}
    for step in steps:
        try:
            manifest = CheckpointManifest.model_validate_json(
                store.read_bytes(locate_step(step) + MANIFEST)
            )
        except ValidationError:
            continue
        if manifest.validation_loss is not None:
            losses[step] = manifest.validation_loss
    return losses


def _list_refused(store: Store, keys: Sequence[str]) -> set[str]:
    """Return which of a step's keys belong to what was refused, its records included."""
    refused: set[str] = set()
    for key in filter(_is_refusal, keys):
        refused.add(key)
        refused |= set(json.loads(store.read_bytes(key))["keys"]) & set(keys)
    return refused


def _is_refusal(key: str) -> bool:
    return key.rpartition("/")[2].startswith(REFUSED_PREFIX)


def _is_content(key: str) -> bool:
    name = key.rpartition("/")[2]
    return name not in {MANIFEST, PINNED} and not _is_refusal(key)
