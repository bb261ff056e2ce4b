"""Who used a source: the runs, and what each of them came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmtrain_api.run import StorageConfig
from llmtrain_trainer.inspection.datasets import describe_origins, find_runs
from llmtrain_trainer.store import open_store

FIRST = "s3://models/runs/team/first-01234567"


@pytest.mark.parametrize(
    ("record", "origins"),
    [
        ({}, []),
        ({"parent": FIRST}, [f"made after {FIRST}"]),
        (
            {"checkpoint": {"restoreFrom": {"job": "first", "step": 40}}},
            ["goes on with first from step 40"],
        ),
        (
            {"checkpoint": {"restoreFrom": {"uri": FIRST}}, "model": {"from": "s3://models/a"}},
            [f"goes on with {FIRST}", "begins with s3://models/a"],
        ),
    ],
)
def test_a_run_says_what_it_came_from(record: dict[str, Any], origins: list[str]) -> None:
    assert describe_origins(record) == origins


def test_runs_are_found_by_their_dataset(tmp_path: Path) -> None:
    for name, record in (("first", None), ("second", {"parent": FIRST})):
        run = tmp_path / "models" / "runs" / "team" / name
        run.mkdir(parents=True)
        told = {"fingerprint": "ab", "uri": "s3://models/datasets/ab"}
        (run / "dataset.json").write_text(json.dumps(told))
        if record is not None:
            (run / "run.json").write_text(json.dumps(record))
    storage = StorageConfig(uri="s3://models", local_root=str(tmp_path))
    runs = find_runs(open_store("s3://models", storage))
    assert sorted(runs["ab"]) == [
        "runs/team/first",
        f"runs/team/second, made after {FIRST}",
    ]
