"""Which checkpoints a run has; saving is tested by real ranks in `test_train`."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmtrain_trainer.checkpoint.manifest import MANIFEST, locate_round, locate_step, read_step
from llmtrain_trainer.checkpoint.verification import list_steps
from llmtrain_trainer.store import Store, open_store
from testbed.tiny_run import configure_tiny_run


def open_empty(root: Path) -> Store:
    (root / "tiny-bucket").mkdir()
    config = configure_tiny_run(root)
    return open_store(config.run_uri, config.storage)


def write(store: Store, step: int, *, committed: bool) -> None:
    store.write_bytes(locate_round(step, 1) + "shard", b"data")
    if committed:
        store.write_bytes(locate_step(step) + MANIFEST, b"{}")


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
