"""`llmtrain run` with the real trainer: to the end, interrupted and gone on with, and failing."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import yaml

from llmtrain_api import LLMTrainingJob
from llmtrain_api.status import Phase
from llmtrain_operator.world.job_folder import JobFolder
from testbed.command_line import CommandLine
from testbed.processes import wait_until

SECONDS = 300
NUM_TOPICS = 12
NUM_STEPS = 1200
"""Enough of them that Ctrl-C comes in between, and each of a few milliseconds."""

MANIFEST: dict[str, Any] = {
    "apiVersion": "llmtrain.dev/v1alpha1",
    "kind": "LLMTrainingJob",
    "metadata": {"name": "tiny"},
    "spec": {
        "data": {
            "sources": [{"uri": "s3://corpus/topics.txt"}],
            "tokenizer": {"kind": "byte"},
            "split": {"method": "tail"},
        },
        "model": {"layers": 1, "heads": 2, "hiddenSize": 16},
        "training": {
            "steps": NUM_STEPS,
            "batchSize": 4,
            "sequenceLength": 16,
            "precision": "fp32",
        },
        "evaluation": {
            "maxSequences": 8,
            "workers": 2,
            "samples": {"prompts": ["The"], "maxNewTokens": 4},
        },
        "workers": {"replicas": 2},
        "storage": {"uri": "s3://models"},
    },
}


class Here:
    """A manifest, a store with a corpus, and the command in one folder."""

    def __init__(self, llmtrain: CommandLine) -> None:
        self.llmtrain = llmtrain
        self.store = llmtrain.folder / "store"
        self.manifest = llmtrain.folder / "job.yaml"
        self.corpus = self.store / "corpus" / "topics.txt"
        self.corpus.parent.mkdir(parents=True)
        self.corpus.write_text("\n".join(list(topics.values())[:NUM_TOPICS]), encoding="utf-8")
        self.write_manifest()
        self.folder = JobFolder(self.store, "default", "tiny")

    def write_manifest(self, **spec: Any) -> None:
        self.manifest.write_text(yaml.safe_dump(MANIFEST | {"spec": MANIFEST["spec"] | spec}))

    def arguments(self, *more: str) -> tuple[str | Path, ...]:
        return ("run", self.manifest, "--store", self.store, *more)

    @property
    def job(self) -> LLMTrainingJob:
        job = self.folder.read_job()
        assert job is not None
        return job


@pytest.fixture
def here(llmtrain: CommandLine) -> Here:
    return Here(llmtrain)


def test_ctrl_c_saves_and_the_same_command_goes_on_to_the_end(here: Here) -> None:
    run = here.llmtrain.start(*here.arguments())
    wait_until(lambda: "prepare" in run.tail_log(), seconds=SECONDS, what="the first stage")
    busy = here.llmtrain(*here.arguments())
    assert busy.returncode == 1
    assert "default/tiny is run by another process" in busy.stderr

    wait_until(lambda: ", loss " in run.tail_log(), seconds=SECONDS, what="a step")
    run.signal(signal.SIGINT)
    assert run.wait(seconds=SECONDS) == 1, run.tail_log()
    stopped = run.tail_log()
    assert "Stopping: the workers save and leave" in stopped
    assert "tiny stopped; the same command again goes on from step" in stopped
    assert here.job.status.checkpoint is not None
    saved = here.job.status.checkpoint.step
    assert 0 < saved < NUM_STEPS
    assert f"goes on from step {saved}\n" in stopped

    ended = here.llmtrain(*here.arguments())
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "tiny succeeded" in ended.stdout
    status = here.job.status
    assert (status.restarts, status.failures) == (0, 0)
    assert status.results is not None
    assert status.results.report_uri is not None
    report = here.folder.locate(status.results.report_uri)
    assert str(report) in ended.stdout
    curve = json.loads(report.with_suffix(".json").read_text())["curve"]
    # One curve of one run: what was done before Ctrl-C was not done again.
    assert [point["step"] for point in curve if "loss" in point] == list(range(1, NUM_STEPS + 1))

    again = here.llmtrain(*here.arguments())
    assert again.returncode == 0
    assert "tiny succeeded" in again.stdout
    assert "StageStarted" not in again.stdout

    told = here.llmtrain("status", "tiny", "--store", here.store)
    assert "tiny succeeded" in told.stdout
    logs = here.llmtrain("logs", "tiny", "--store", here.store, "--process", "train-0")
    assert "==> tiny-train-0-0 <==" in logs.stdout
    assert "==> tiny-train-0-1 <==" in logs.stdout
    assert "prepare" not in logs.stdout


def test_a_failure_is_said_in_the_agents_words_and_can_be_mended(here: Here) -> None:
    text = here.corpus.read_text(encoding="utf-8")
    here.corpus.write_bytes(b"\xff not UTF-8")
    failed = here.llmtrain(*here.arguments("--workers", "1"))
    assert failed.returncode == 1
    assert "tiny failed: " in failed.stdout
    assert "topics.txt" in failed.stdout
    assert "UTF-8" in failed.stdout
    assert "llmtrain logs tiny --store" in failed.stdout
    assert here.job.status.phase is Phase.FAILED

    changed = here.llmtrain(*here.arguments("--workers", "4"))
    assert changed.returncode == 1
    assert "spec.workers.replicas: 1 → 4" in changed.stderr
    assert str(here.folder.path) in changed.stderr

    here.corpus.write_text(text, encoding="utf-8")
    mended = here.llmtrain.start(*here.arguments("--workers", "1"))
    wait_until(
        lambda: "stage train, 1 worker" in mended.tail_log(),
        seconds=SECONDS,
        what="the stage that failed to be done",
    )
    mended.signal(signal.SIGINT)
    assert mended.wait(seconds=SECONDS) == 1


def test_a_mistake_in_the_manifest_is_named_by_line(here: Here) -> None:
    here.write_manifest(training={"steps": 0})
    refused = here.llmtrain(*here.arguments())
    assert refused.returncode == 1
    assert f"{here.manifest}:" in refused.stderr
    assert "spec.training.steps: should be greater than or equal to 1" in refused.stderr


def test_a_store_that_cannot_be_written_is_named(here: Here) -> None:
    refused = here.llmtrain("run", here.manifest, "--store", "/proc/store")
    assert refused.returncode == 1
    assert "the job cannot be run in /proc/store" in refused.stderr
    assert "Traceback" not in refused.stderr
