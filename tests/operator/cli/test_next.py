"""`llmtrain next`: the findings of a run become a manifest that runs as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmtrain_api.findings import FINDINGS, RelabelLine
from llmtrain_operator.cli.manifest import load_job
from llmtrain_operator.cli.next import name_successor
from testbed.command_line import CommandLine
from testbed.finished_runs import UID, make_job, write_finished_run

RUN = f"s3://models/runs/default/noisy-{UID[:8]}"
WRONG, GARBAGE, UNSURE = "a" * 32, "id:spam", "c" * 64
FINDING: dict[str, Any] = {
    "kind": "mislabelled",
    "part": "train",
    "summary": "3 documents are probably mislabelled.",
    "why": "Other documents say so.",
    "drop": [{"document": GARBAGE, "confidence": 0.9}],
    "relabel": [
        {"document": WRONG, "fromLabel": "a", "toLabel": "b", "confidence": 0.8},
        {"document": UNSURE, "fromLabel": "a", "toLabel": "b", "confidence": 0.4},
    ],
    "weigh": [{"source": 0, "factor": 2.0}],
}
OVERFIT = [
    {"step": step, "validationLoss": loss}
    for step, loss in ((25, 1.5), (50, 1.2), (75, 1.4), (100, 1.8))
]


@pytest.fixture
def store(llmtrain: CommandLine) -> Path:
    """A run of labelled texts that overfits, with findings about training and test."""
    store = llmtrain.folder / "store"
    source = {"uri": "s3://corpus/a.jsonl", "fields": {"label": "l", "id": "i"}, "weight": 1.5}
    data = {"sources": [source], "privacy": {"erase": [{"uri": "s3://corpus/asked.txt"}]}}
    run = write_finished_run(store, make_job("noisy", data=data), metrics={}, curve=OVERFIT)
    found = {"run": RUN, "dataset": "ab", "findings": [FINDING, {**FINDING, "part": "test"}]}
    (run / FINDINGS).write_text(json.dumps(found))
    write_finished_run(store, make_job("clean"), metrics={})
    return store


def test_findings_become_a_manifest(llmtrain: CommandLine, store: Path) -> None:
    called = llmtrain("next", "noisy", "-o", "next.yaml", "--store", store)
    assert called.returncode == 0, called.stdout + called.stderr
    path = llmtrain.folder / "next.yaml"
    job, text = load_job(path), path.read_text(encoding="utf-8")
    assert job.metadata.name == "noisy-2"
    assert job.metadata.annotations == {"llmtrain.dev/parent": RUN}
    asked, dropped = job.spec.data.privacy.erase
    assert asked.uri == "s3://corpus/asked.txt"
    assert read_object(store, dropped.uri) == f"{GARBAGE}\n"
    [relabelled] = job.spec.data.relabel
    line = RelabelLine(document=WRONG, from_label="a", to_label="b")
    assert read_object(store, relabelled.uri) == line.model_dump_json(by_alias=True) + "\n"
    assert (job.spec.data.sources[0].weight, job.spec.model.dropout) == (3.0, 0.1)
    assert job.spec.training.steps == 50
    lines = text.splitlines()
    above = lines[lines.index("    steps: 50") - 2 : lines.index("    steps: 50")]
    assert " ".join(line.strip() for line in above).startswith(
        "# The held-out loss was lowest (1.2)"
    )
    assert "# 1 documents get another label, with a confidence of at least 0.5." in text
    assert "resources" not in text  # as by default

    again = llmtrain("next", "noisy", "-o", "next.yaml", "--store", store)
    assert again.stdout == called.stdout
    assert path.read_text(encoding="utf-8") == text


def read_object(store: Path, uri: str) -> str:
    return (store / uri.removeprefix("s3://")).read_text(encoding="utf-8")


def test_the_data_can_be_changed_alone_from_a_manifest(llmtrain: CommandLine, store: Path) -> None:
    llmtrain("next", "noisy", "-o", "next.yaml", "--store", store, "--keep-training")
    job = load_job(llmtrain.folder / "next.yaml")
    assert (job.spec.training.steps, job.spec.model.dropout) == (100, 0.0)
    assert len(job.spec.data.relabel) == 1
    write_finished_run(store, job, metrics={})
    told = llmtrain("status", "noisy-2", "--store", store).stdout
    assert f"made after {RUN}" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["clean"], "nothing to change: the evaluation of clean found nothing"),
        (["nobody"], "no job default/nobody in"),
        ([RUN], "an s3:// URI needs --manifest"),
        (["noisy", "--min-confidence", "2"], "--min-confidence"),
    ],
)
def test_what_has_no_next_is_named(
    llmtrain: CommandLine, store: Path, arguments: list[str], said: str
) -> None:
    called = llmtrain("next", *arguments, "-o", "next.yaml", "--store", store)
    assert called.returncode != 0
    assert said in called.stdout + called.stderr
    assert "Traceback" not in called.stderr
    assert not (llmtrain.folder / "next.yaml").exists()


def test_successors_are_numbered() -> None:
    assert [name_successor(name) for name in ("job", "job-2", "job-x", "a" * 52)] == [
        "job-2", "job-3", "job-x-2", "a" * 50 + "-2",
    ]  # fmt: skip
