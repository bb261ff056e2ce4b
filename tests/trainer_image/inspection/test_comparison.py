"""What is told to differ between two datasets."""

from __future__ import annotations

from pathlib import Path

from llmtrain_api.naming import locate_dataset
from llmtrain_api.run import RunConfig
from llmtrain_trainer.inspection.comparison import compare_datasets, flatten, read_vocabulary
from llmtrain_trainer.inspection.datasets import read_dataset_manifest
from llmtrain_trainer.prepare import run_prepare
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.store import Store, open_store
from testbed.tiny_run import configure_tiny_run, prepare_tiny_run


def open_prepared(config: RunConfig) -> Store:
    result = run_prepare(config, Reporter(0, lambda update: None))
    assert result.dataset is not None
    return open_store(locate_dataset(config.storage.uri, result.dataset), config.storage)


def compare(first: Store, second: Store) -> dict[tuple[str, str], tuple[str, str]]:
    found = compare_datasets(
        read_dataset_manifest(first),
        read_dataset_manifest(second),
        read_vocabulary(first),
        read_vocabulary(second),
    )
    return {(d.section, d.name): (d.first, d.second) for d in found}


def test_differences_are_named_once(tmp_path: Path) -> None:
    root = tmp_path / "store"
    first = open_prepared(prepare_tiny_run(root))
    split = {"method": "tail", "validationFraction": 0.2}
    tokenizer = {"kind": "bpe", "vocabularySize": 400}
    second = open_prepared(configure_tiny_run(root, data={"split": split}))
    third = open_prepared(configure_tiny_run(root, data={"tokenizer": tokenizer}))
    assert compare(first, first) == {}
    changed = compare(first, second)
    assert changed["recipe", "split.validationFraction"] == ("0.1", "0.2")
    assert {section for section, _ in changed} == {"recipe", "splits"}
    learned = compare(first, third)["vocabulary", "only here"]
    assert learned[0] == "0"
    assert learned[1].startswith("143: ")


def test_source_that_changed_is_told_by_its_digest(tmp_path: Path) -> None:
    root = tmp_path / "store"
    config = prepare_tiny_run(root)
    first = open_prepared(config)
    open_store("s3://tiny-bucket", config.storage).write_bytes("topics.txt", b"other text " * 99)
    changed = compare(first, open_prepared(config))
    before, after = changed["sources", "s3://tiny-bucket/topics.txt"]
    assert before != after
    assert len(before) == len(after) == 16


def test_leaves_have_paths() -> None:
    data: dict[str, object] = {"a": {"b": [1, {"c": "x"}]}, "d": [], "e": None}
    assert dict(flatten(data)) == {"a.b[0]": "1", "a.b[1].c": '"x"', "d": "[]", "e": "null"}
