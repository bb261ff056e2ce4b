"""Datasets of a folder, looked at by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from testbed.command_line import CommandLine
from testbed.tiny_run import prepare_tiny_run


@pytest.fixture
def job(tmp_path: Path) -> list[str]:
    """The arguments that name a job whose data is prepared."""
    config = prepare_tiny_run(tmp_path / "store")
    folder = tmp_path / "store" / "_jobs" / "tests" / "tiny"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(config.dump()))
    return ["tiny", "-n", "tests", "--store", str(tmp_path / "store")]


def test_dataset_is_explained(llmtrain: CommandLine, job: list[str]) -> None:
    run = llmtrain("data", "inspect", *job)
    assert run.returncode == 0, run.stderr
    lines = [line.split() for line in run.stdout.splitlines() if line.strip()]
    assert lines[0][0].startswith("s3://tiny-bucket/datasets/")
    first = [line[0] for line in lines]
    assert "s3://tiny-bucket/topics.txt" in first
    assert ["read", "1", "1", "0"] in lines
    assert {"normalize", "select", "privacy", "train", "validation"} <= set(first)
    assert lines[-1][:5] == ["byte", "tokenizer", "of", "257", "tokens:"]


@pytest.mark.parametrize("source", ["s3://tiny-bucket/topics.txt", "s3://tiny-bucket/*.txt"])
def test_lineage_of_a_source(llmtrain: CommandLine, job: list[str], source: str) -> None:
    run = llmtrain("data", "lineage", *job, "--source", source)
    assert run.returncode == 0, run.stderr
    _, line = run.stdout.splitlines()
    assert line.split()[1] == "s3://tiny-bucket/topics.txt"
    assert line.split()[3] == "runs/tests/tiny"


def test_source_that_nobody_used(llmtrain: CommandLine, job: list[str]) -> None:
    run = llmtrain("data", "lineage", *job, "--source", "s3://elsewhere/a.txt")
    assert run.returncode == 1
    assert run.stdout.strip() == "no dataset in s3://tiny-bucket was made of s3://elsewhere/a.txt"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["inspect"], "say either the NAME of a job of this machine, or --uri"),
        (["lineage", "tiny"], "lineage needs --source"),
        (["inspect", "nobody"], "no job default/nobody has run in"),
    ],
)
def test_mistakes_are_named(llmtrain: CommandLine, arguments: list[str], said: str) -> None:
    run = llmtrain("data", *arguments)
    assert run.returncode != 0
    assert said in run.stderr
