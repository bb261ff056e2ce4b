"""`llmtrain demo` with the real trainer and real text, and a model small enough for a test."""

from __future__ import annotations

import signal
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmtrain_operator.cli.manifest import load_job
from llmtrain_operator.world.job_folder import JobFolder
from testbed.command_line import CommandLine
from testbed.processes import wait_until

SECONDS = 300
SHIPPED = "demo.yaml"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store whose manifest a person has changed to a smaller model of fewer steps."""
    manifest: dict[str, Any] = yaml.safe_load(read_shipped())
    manifest["spec"]["model"] |= {"layers": 1, "heads": 2, "hiddenSize": 32}
    manifest["spec"]["training"] |= {"steps": 3, "precision": "fp32"}
    manifest["spec"]["evaluation"]["samples"]["maxNewTokens"] = 8
    store = tmp_path / "store"
    store.mkdir()
    (store / SHIPPED).write_text(yaml.safe_dump(manifest))
    return store


def read_shipped() -> str:
    return resources.files("llmtrain_operator.cli").joinpath(SHIPPED).read_text(encoding="utf-8")


def test_the_demo_trains_shows_its_result_again_and_begins_anew_where_asked(
    llmtrain: CommandLine, store: Path
) -> None:
    first = llmtrain("demo", "--store", store)
    assert first.returncode == 0, first.stdout + first.stderr
    assert f"{store}/demo/python.jsonl: " in first.stdout
    assert "stage train, 2 workers" in first.stdout
    told = first.stdout[first.stdout.index("What the model writes:") :]
    assert "Return a list of" in told
    assert "nats per token on all held-out text; a unigram baseline: " in told
    folder = JobFolder(store, "default", "demo")
    job = folder.read_job()
    assert job is not None
    assert job.status.results is not None
    assert job.status.results.report_uri is not None
    report = folder.locate(job.status.results.report_uri)
    assert report.is_file()
    assert str(report) in told

    second = llmtrain("demo", "--store", store)
    assert second.returncode == 0
    assert "Trained already" in second.stdout
    assert "StageStarted" not in second.stdout
    assert second.stdout.endswith(told)

    third = llmtrain.start("demo", "--store", store, "--steps", "500000")
    wait_until(
        lambda: "stage train, 2 workers" in third.tail_log(), seconds=SECONDS, what="training"
    )
    third.signal(signal.SIGINT)
    assert third.wait(seconds=SECONDS) == 1
    assert "Training anew (spec.training.steps: 3 → 500000)" in third.tail_log()
    assert load_job(store / SHIPPED).spec.training.steps == 500_000
    assert report.is_file()

    fourth = llmtrain.start("run", store / SHIPPED, "--store", store)
    wait_until(
        lambda: "workers" in fourth.tail_log(), seconds=SECONDS, what="the same job to go on"
    )
    fourth.signal(signal.SIGINT)
    assert fourth.wait(seconds=SECONDS) == 1
    assert "demo stopped" in fourth.tail_log()


def test_the_shipped_manifest_is_put_where_people_can_read_it(
    llmtrain: CommandLine, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    demo = llmtrain.start("demo", "--store", store)
    wait_until(lambda: "StageStarted" in demo.tail_log(), seconds=SECONDS, what="the first stage")
    demo.signal(signal.SIGINT)
    assert demo.wait(seconds=SECONDS) == 1
    assert (store / SHIPPED).read_text(encoding="utf-8") == read_shipped()
    job = load_job(store / SHIPPED)
    assert job.spec.workers.replicas == 2
    assert (store / "demo" / "python.jsonl").is_file()


def test_a_mistake_in_a_changed_manifest_is_named_by_line(
    llmtrain: CommandLine, store: Path
) -> None:
    path = store / SHIPPED
    path.write_text(path.read_text().replace("steps: 3", "steps: none"))
    refused = llmtrain("demo", "--store", store)
    assert refused.returncode == 1
    assert f"{path}:" in refused.stderr
    assert "spec.training.steps" in refused.stderr


def test_steps_that_cannot_be_put_into_the_manifest_are_refused(
    llmtrain: CommandLine, store: Path
) -> None:
    path = store / SHIPPED
    manifest = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(manifest, default_flow_style=True, width=10_000))
    refused = llmtrain("demo", "--store", store, "--steps", "5")
    assert refused.returncode == 1
    assert "has no line `steps: 3` to put 5 into" in refused.stderr


def test_a_store_that_cannot_be_written_is_named(llmtrain: CommandLine) -> None:
    refused = llmtrain("demo", "--store", "/proc/store")
    assert refused.returncode == 1
    assert "the demo cannot be run in /proc/store" in refused.stderr
    assert "Traceback" not in refused.stderr
