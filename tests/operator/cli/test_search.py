"""`llmtrain search` over runs that have ended; tests/bench/bench_search.py trains them, too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from llmtrain_api import LLMTrainingJob
from llmtrain_operator.cli.manifest import load_job
from llmtrain_operator.cli.search import resize_job
from llmtrain_operator.world.job_folder import list_changes
from testbed.command_line import CommandLine
from testbed.finished_runs import make_job, write_finished_run

LOSSES = {12_000_000: 2.0, 6_000_000: 2.03, 3_000_000: 2.5}


def write_manifest(path: Path, job: LLMTrainingJob) -> None:
    data = job.dump()
    del data["status"]
    path.write_text(yaml.safe_dump(data), encoding="utf-8")


@pytest.fixture
def store(llmtrain: CommandLine) -> Path:
    """A manifest, and its job done at three sizes."""
    store = llmtrain.folder / "store"
    write_manifest(llmtrain.folder / "job.yaml", make_job("tiny"))
    for size, loss in LOSSES.items():
        job = make_job(f"tiny-{size // 1_000_000}m", model={"size": size})
        write_finished_run(store, job, metrics={"loss": loss}, training_seconds=size / 1e5)
    return store


def read_search(store: Path) -> dict[str, Any]:
    path = store / "_searches" / "default" / "tiny" / "search.json"
    return dict(json.loads(path.read_text(encoding="utf-8")))


def test_the_smallest_that_is_good_enough_gets_a_manifest(
    llmtrain: CommandLine, store: Path
) -> None:
    called = llmtrain("search", "job.yaml", "--sizes", "3M,12M,6M", "--store", store)
    assert called.returncode == 0, called.stdout + called.stderr
    assert "The smallest that is good enough is 6m: loss 2.03, where 2.04 is." in called.stdout
    assert "tiny-12m" in called.stdout
    told = read_search(store)
    assert (told["best"], told["limit"]) == (6_000_000, pytest.approx(2.04))
    assert [one["size"] for one in told["sizes"]] == sorted(LOSSES, reverse=True)
    folder = store / "_searches" / "default" / "tiny"
    best = load_job(folder / "job.yaml")
    assert (best.metadata.name, best.spec.model.size) == ("tiny-6m", 6_000_000)
    assert best.spec.training == make_job("tiny").spec.training
    assert (folder / "search.html").read_text(encoding="utf-8").count("<svg") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sizes", "12M,small"], "'small' is no size; give parameters as 12M, 1.3B or 500k"),
        (["--sizes", "12M"], "give at least two sizes"),
        (["--sizes", "12M,6M", "--tolerance", "much"], "'much' is no tolerance"),
        (["--sizes", "12M,6M", "--metric", "f1"], "--metric f1: not measured; measured are loss"),
    ],
)
def test_what_cannot_be_searched_is_named(
    llmtrain: CommandLine, store: Path, arguments: list[str], said: str
) -> None:
    called = llmtrain("search", "job.yaml", *arguments, "--store", store)
    assert called.returncode != 0
    assert said in called.stdout + called.stderr
    assert "Traceback" not in called.stderr


def test_sizes_share_their_data_and_differ_in_nothing_else() -> None:
    large, small = (resize_job(make_job("tiny"), size) for size in (12_000_000, 6_000_000))
    assert (large.metadata.name, small.metadata.name) == ("tiny-12m", "tiny-6m")
    assert list_changes(large, small) == ["spec.model.size: 12000000 → 6000000"]


def test_a_shape_is_no_size() -> None:
    job = make_job("tiny", model={"layers": 2, "hiddenSize": 64, "heads": 2})
    with pytest.raises(click.ClickException, match="one of layers and hiddenSize"):
        resize_job(job, 3_000_000)
