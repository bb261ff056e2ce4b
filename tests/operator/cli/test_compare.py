"""Runs side by side, of a folder and of a real MinIO."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import pytest

from testbed.command_line import CommandLine
from testbed.finished_runs import UID, make_job, write_finished_run
from testbed.minio import MinioServer

LARGE = {"loss": 2.0, "perplexity": 7.389, "qa.token_f1": 0.5}
SMALL = {"loss": 2.1, "perplexity": 8.166, "qa.token_f1": 0.4}
PARENT = "s3://models/runs/default/large-01234567"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two evaluated runs, the second made after the first, and one that got no further."""
    store = tmp_path / "store"
    write_finished_run(
        store,
        make_job("large"),
        metrics=LARGE,
        classification={"intervals": {"qa.token_f1": [0.45, 0.55]}},
    )
    small = make_job(
        "small",
        model={"size": 3_000_000},
        training={"steps": 50},
        annotations={"llmtrain.dev/parent": PARENT},
    )
    write_finished_run(store, small, metrics=SMALL, training_seconds=1800.0)
    stopped = make_job("stopped", evaluation={"gates": ["loss < 3"]})
    write_finished_run(store, stopped, metrics=None)
    return store


def test_runs_are_compared_in_what_differs(llmtrain: CommandLine, store: Path) -> None:
    page = llmtrain.folder / "compared.html"
    called = llmtrain(
        *("compare", "large", "small", "stopped", "--store", store, "--html", page),
        *("--metric", "loss", "--price-per-hour", "2"),
    )
    assert called.returncode == 0, called.stderr
    said = " ".join(called.stdout.split())
    for row in (
        "model.size 12000000 3000000 12000000",
        "training.steps 100 50 100",
        "qa.token_f1 0.5 (0.45 to 0.55) 0.4 –",
        "tokens 6,400 3,200 –",
        "training 60 s 30.0 min 60 s",
        "cost 0.0333 1 0.0333",
    ):
        assert row in said
    assert "training.batchSize" not in said
    assert "large-01234567" in called.stdout
    assert "stopped: it was not evaluated: it has no metrics" in called.stdout
    html = page.read_text(encoding="utf-8")
    assert html.count("<svg") == 2
    assert not any(loads in html for loads in ("<script", "<link", "src=", "url(http"))
    assert '<td class="best">2</td>' in html


def test_json_has_the_same(llmtrain: CommandLine, store: Path) -> None:
    told = json.loads(llmtrain("compare", "large", "small", "--store", store, "--json").stdout)
    assert told["differences"]["training.steps"] == ["100", "50"]
    first, second = told["runs"]
    assert (first["metrics"], first["intervals"]) == (LARGE, {"qa.token_f1": [0.45, 0.55]})
    assert (first["usage"]["trainingSeconds"], first["kilowattHours"]) == (60.0, None)
    assert (second["parent"], first["parent"]) == (PARENT, None)


def test_runs_of_a_server_are_compared_without_their_ledger(
    llmtrain: CommandLine, store: Path, minio: MinioServer, tmp_path: Path
) -> None:
    bucket = f"runs-{secrets.token_hex(4)}"
    minio.create_bucket(bucket)
    for path in (store / "models").rglob("*.json"):
        key = path.relative_to(store / "models").as_posix()
        minio.connect().fput_object(bucket, key, str(path))
    (tmp_path / "accessKey").write_text(minio.access_key)
    (tmp_path / "secretKey").write_text(minio.secret_key)
    reach = ("--endpoint", minio.endpoint, "--credentials", tmp_path)
    runs = f"s3://{bucket}/runs/default"
    called = llmtrain("compare", f"{runs}/large-{UID[:8]}", f"{runs}/small-{UID[:8]}", *reach)
    assert called.returncode == 0, called.stderr
    assert "qa.token_f1" in called.stdout
    assert "its ledger is in the status of its job" in called.stdout
    missed = llmtrain("compare", f"{runs}/large-wrong", *reach)
    assert missed.returncode != 0
    assert f"is no run of llmtrain; below s3://{bucket}/runs there are: {runs}/large-" in (
        missed.stdout + missed.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nobody"], "no job default/nobody in"),
        (["nobody"], "it holds: default/large, default/small, default/stopped"),
        (["large", "--metric", "loss"], "--metric is drawn on the page of --html"),
        (["large", "--html", "x", "--metric", "f1"], "no run has it; they have loss, perplexity"),
    ],
)
def test_what_cannot_be_compared_is_named(
    llmtrain: CommandLine, store: Path, arguments: list[str], said: str
) -> None:
    called = llmtrain("compare", *arguments, "--store", store)
    assert called.returncode != 0
    assert said in called.stdout + called.stderr
    assert "Traceback" not in called.stderr
