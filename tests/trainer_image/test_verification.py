"""Which checkpoints stay; saving is tested by real ranks in `test_train`."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmtrain_trainer.manifest import MANIFEST, locate_round, locate_step, read_step
from llmtrain_trainer.store import Store, open_store
from llmtrain_trainer.verification import delete_old_checkpoints, list_steps
from testbed.tiny_run import configure_tiny_run


def open_empty(root: Path) -> Store:
    (root / "tiny-bucket").mkdir()
    config = configure_tiny_run(root)
    return open_store(config.run_uri, config.storage)


def write(store: Store, step: int, *, committed: bool) -> None:
    store.write_bytes(locate_round(step, 1) + "shard", b"data")
    if committed:
        store.write_bytes(locate_step(step) + MANIFEST, b"{}")


@pytest.mark.parametrize(
    ("committed", "unfinished", "keep_last", "left"),
    [
        ([10, 20, 30], [], 2, [20, 30]),
        ([10], [], 1, [10]),
        ([10, 30], [20], 1, [30]),  # what never became a checkpoint goes too
        ([10], [20], 1, [10, 20]),  # unless it may still be on its way
        ([], [20], 1, [20]),
    ],
)
def test_retention(
    tmp_path: Path,
    committed: list[int],
    unfinished: list[int],
    keep_last: int,
    left: list[int],
) -> None:
    store = open_empty(tmp_path)
    for step in committed + unfinished:
        write(store, step, committed=step in committed)
    delete_old_checkpoints(store, keep_last=keep_last)
    assert {read_step(item.key) for item in store.list_objects("checkpoints/")} == set(left)


def test_steps_are_newest_first_and_need_a_manifest(tmp_path: Path) -> None:
    store = open_empty(tmp_path)
    for step, committed in ((9, True), (100, True), (200, False)):
        write(store, step, committed=committed)
    assert list_steps(store) == [100, 9]


@pytest.mark.parametrize(
    ("key", "step"),
    [
        ("checkpoints/step-00000012/manifest.json", 12),
        (locate_round(123_456_789, 3) + "shard", 123_456_789),
        ("checkpoints/notes.txt", None),
        ("checkpoints/step-x/manifest.json", None),
    ],
)
def test_step_of_a_key(key: str, step: int | None) -> None:
    assert read_step(key) == step
