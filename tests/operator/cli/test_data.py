"""Datasets of a folder, looked at by the command line."""

from __future__ import annotations

import hashlib
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


def test_lineage_of_a_document(llmtrain: CommandLine, job: list[str]) -> None:
    text = (Path(job[-1]) / "tiny-bucket" / "topics.txt").read_bytes()
    digest = hashlib.sha256(text).hexdigest()
    run = llmtrain("data", "lineage", *job, "--document", digest)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[1].split()[1:] == ["runs/tests/tiny"]
    run = llmtrain("data", "lineage", *job, "--document", "id:jane.roe")
    assert run.returncode == 1
    assert run.stdout.strip() == "no dataset in s3://tiny-bucket holds the document"


def test_source_that_nobody_used(llmtrain: CommandLine, job: list[str]) -> None:
    run = llmtrain("data", "lineage", *job, "--source", "s3://elsewhere/a.txt")
    assert run.returncode == 1
    assert run.stdout.strip() == "no dataset in s3://tiny-bucket was made of s3://elsewhere/a.txt"


MANIFEST = """
apiVersion: llmtrain.dev/v1alpha1
kind: LLMTrainingJob
metadata:
  name: by-hand
spec:
  data:
    sources:
      - uri: s3://tiny-bucket/topics.txt
    tokenizer:
      kind: bpe
      vocabularySize: 400
    split:
      method: tail
  training:
    steps: 1
  storage:
    uri: s3://tiny-bucket
"""


def test_data_is_prepared_by_hand_explained_and_compared(
    llmtrain: CommandLine, job: list[str], tmp_path: Path
) -> None:
    (tmp_path / "job.yaml").write_text(MANIFEST)
    store = ["--store", str(tmp_path / "store")]
    runs = [llmtrain("data", "prepare", "job.yaml", *store) for _ in range(2)]
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr + runs[0].stdout
    assert "reads s3://tiny-bucket/topics.txt (1 of 1)" in runs[0].stdout
    _, fingerprint, *said = next(
        line.split() for line in runs[1].stdout.splitlines() if line.startswith("dataset ")
    )
    assert said == ["was", "there", "already"]

    report = llmtrain("data", "report", fingerprint, *store)
    assert report.returncode == 0, report.stderr
    page = Path(report.stdout.strip())
    assert page.parent.name == fingerprint
    assert page.read_text().startswith("<!doctype html>")
    copied = llmtrain("data", "report", *job, "--output", "copy.html")
    assert copied.stdout.strip() == "copy.html"
    assert (tmp_path / "copy.html").read_text().startswith("<!doctype html>")

    same = llmtrain("data", "diff", fingerprint, fingerprint, *store)
    assert (same.returncode, same.stdout.splitlines()[-1]) == (0, "no difference")
    differs = llmtrain("data", "diff", fingerprint, *job)
    assert differs.returncode == 1, differs.stderr
    words = [line.split() for line in differs.stdout.splitlines()]
    assert ["recipe", "tokenizer.kind", '"bpe"', '"byte"'] in words
    assert any(line[:2] == ["splits", "train"] for line in words)
    assert any(line[:3] == ["vocabulary", "only", "here"] for line in words)


def test_dataset_without_a_report_is_named(llmtrain: CommandLine, job: list[str]) -> None:
    store = Path(job[-1])
    (page,) = store.glob("tiny-bucket/datasets/*/report.html")
    page.unlink()
    run = llmtrain("data", "report", *job)
    assert run.returncode == 22
    assert "has no report; prepare it by a version of llmtrain that makes reports" in run.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["inspect"], "Missing argument 'DATASET'"),
        (["lineage", "tiny"], "give one of --source and --document"),
        (["inspect", "nobody"], "no job default/nobody has run in"),
        (["report", "0" * 32], f"no dataset {'0' * 32} in llmtrain-store"),
        (["prepare", "absent.yaml"], "File 'absent.yaml' does not exist"),
    ],
)
def test_mistakes_are_named(llmtrain: CommandLine, arguments: list[str], said: str) -> None:
    run = llmtrain("data", *arguments)
    assert run.returncode != 0
    assert said in run.stderr
