"""Which checkpoints stay, and what becomes of those that were refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmtrain_trainer.checkpoint.manifest import (
    MANIFEST,
    CheckpointManifest,
    locate_round,
    locate_step,
)
from llmtrain_trainer.checkpoint.retention import (
    PINNED,
    Retention,
    choose_kept,
    delete_old_checkpoints,
    list_refusals,
    refuse_checkpoint,
)
from llmtrain_trainer.checkpoint.verification import list_steps
from llmtrain_trainer.store import Store, open_store
from testbed.tiny_run import configure_tiny_run

STEPS = [10, 20, 30, 40]
LOSSES = {10: 3.0, 20: 1.0, 30: 2.0}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "tiny-bucket").mkdir()
    config = configure_tiny_run(tmp_path)
    return open_store(config.run_uri, config.storage)


def write(store: Store, step: int, *, committed: bool = True, round_number: int = 1) -> None:
    store.write_bytes(locate_round(step, round_number) + "part", b"data")
    manifest = CheckpointManifest(
        step=step,
        round=round_number,
        world_size=1,
        created=0.0,
        validation_loss=LOSSES.get(step),
        dataset="d",
        arithmetic={},
        versions={},
        objects=[],
    )
    if committed:
        data = manifest.model_dump_json(by_alias=True).encode()
        store.write_bytes(locate_step(step) + MANIFEST, data)


def list_keys(store: Store) -> list[str]:
    return [item.key for item in store.list_objects("checkpoints/")]


@pytest.mark.parametrize(
    ("retention", "pinned", "kept"),
    [
        (Retention(last=2), set(), {30, 40}),
        (Retention(last=1), set(), {40}),
        (Retention(last=0), set(), {40}),  # never the last
        (Retention(last=1), {20, 25}, {20, 40}),
        (Retention(last=1, every_steps=20), set(), {20, 40}),
        (Retention(last=1, best=1), set(), {20, 40}),
        (Retention(last=1, steps=frozenset({10, 15})), set(), {10, 40}),
        (Retention(last=1, best=2), set(), {20, 30, 40}),
        (Retention(last=1, best=9), set(), {10, 20, 30, 40}),
    ],
)
def test_what_is_kept(retention: Retention, pinned: set[int], kept: set[int]) -> None:
    assert choose_kept(STEPS, LOSSES, pinned, retention) == kept


@pytest.mark.parametrize(
    ("committed", "unfinished", "last", "left"),
    [
        ([10, 20, 30], [], 2, [20, 30]),
        ([10], [], 1, [10]),
        ([10, 30], [20], 1, [30]),  # what never became a checkpoint goes too
        ([10], [20], 1, [10, 20]),  # unless it may still be on its way
        ([], [20], 1, [20]),
    ],
)
def test_what_is_deleted(
    store: Store, committed: list[int], unfinished: list[int], last: int, left: list[int]
) -> None:
    for step in committed + unfinished:
        write(store, step, committed=step in committed)
    delete_old_checkpoints(store, Retention(last=last))
    assert {key.split("/")[1] for key in list_keys(store)} == {f"step-{s:08d}" for s in left}


def test_pinned_and_best_checkpoints_outlive_newer_ones(store: Store) -> None:
    for step in STEPS:
        write(store, step)
    store.write_bytes(locate_step(10) + PINNED, b"")
    assert delete_old_checkpoints(store, Retention(last=1, best=1)) == [30]
    assert list_steps(store) == [40, 20, 10]
    store.delete(locate_step(10) + PINNED)
    assert delete_old_checkpoints(store, Retention(last=1)) == [10, 20]


def test_refused_checkpoints_are_never_chosen_and_never_deleted_silently(store: Store) -> None:
    write(store, 10)
    write(store, 20)
    refuse_checkpoint(store, 20, "its part is short")
    assert list_steps(store) == [10]
    assert list_refusals(store) == {20: ["its part is short"]}
    write(store, 20, round_number=2)  # the run repeats the step
    refuse_checkpoint(store, 20, "this one, too")
    write(store, 20, round_number=3)
    write(store, 30)
    delete_old_checkpoints(store, Retention(last=1))
    assert list_steps(store) == [30]
    kept = [key for key in list_keys(store) if "step-00000020" in key]
    assert [key.split("/", 2)[2] for key in kept] == [
        "refused-001.json",
        "refused-002.json",
        "round-00001/part",
        "round-00002/part",
    ]
    delete_old_checkpoints(store, Retention(last=1), with_refused=True)
    assert list_refusals(store) == {}
    assert {key.split("/")[1] for key in list_keys(store)} == {"step-00000030"}
