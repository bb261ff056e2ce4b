"""Other weights of a run are evaluated beside the exported ones, and afterwards by another job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmtrain_api.records import Stage
from llmtrain_api.run import RunConfig
from llmtrain_trainer.evaluation.checkpoints import NOT_THERE, find_steps
from llmtrain_trainer.failures import ConfigurationError
from llmtrain_trainer.store import open_store
from testbed.ranks import run_ranks
from testbed.tiny_run import find_run_folder, prepare_tiny_run

SUITES = [
    {"name": "qa", "uri": "s3://tiny-bucket/qa.jsonl", "maxNewTokens": 4},
    {"name": "mc", "uri": "s3://tiny-bucket/mc.jsonl", "kind": "multiple-choice"},
    {"name": "task", "uri": "s3://tiny-bucket/task.yaml", "kind": "harness"},
]
TASK = """
task: task
dataset_path: json
dataset_kwargs: {data_files: {test: task.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{prompt}}"
doc_to_target: answer
doc_to_choice: choices
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
LINES: dict[str, dict[str, Any]] = {
    "qa": {"prompt": "The ", "references": ["end", "start"]},
    "mc": {"prompt": "The ", "choices": ["the", "an"], "answer": 0},
    "task": {"prompt": "The", "choices": ["the", "an"], "answer": 0},
}
NAMED = ["final", "best", "step-5"]
MEASURED_BY_THE_CLOCK = ("qa.tokens_per_second", "qa.latency_seconds")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    (root / "tiny-bucket").mkdir()
    for name, line in LINES.items():
        (root / "tiny-bucket" / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    (root / "tiny-bucket" / "task.yaml").write_text(TASK)
    return root


@pytest.fixture(scope="module")
def trained(root: Path) -> RunConfig:
    """A run whose loss rises in the end, with one of its evaluations the best."""
    config = prepare_tiny_run(
        root,
        run="first-0123abcd",
        training={"optimizer": {"learningRate": 0.3, "warmupSteps": 12}},
        evaluation={"everySteps": 3, "suites": SUITES, "checkpoints": NAMED},
        checkpoint={"everySteps": 1000, "keepLast": 1},
    )
    run_ranks(config)
    return config


def evaluate(config: RunConfig) -> dict[str, Any]:
    result = run_ranks(config, stage=Stage.EVALUATE).result
    report = json.loads((find_run_folder(config) / "evaluation/report.json").read_text())
    assert result is not None
    told = [item.dump() for item in result.checkpoints or []]
    shown = report["checkpoints"]
    assert [(t["name"], t.get("step")) for t in told] == [(s["name"], s.get("step")) for s in shown]
    for tells, shows in zip(told, shown, strict=True):
        assert tells["metrics"].items() <= shows.get("metrics", {}).items()
    return dict(report)


def drop_speed(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in MEASURED_BY_THE_CLOCK}


def test_named_checkpoints_are_evaluated_as_if_they_had_been_exported(
    root: Path, trained: RunConfig
) -> None:
    """By two ranks, of which the first alone asks tasks of lm-evaluation-harness."""
    report = evaluate(trained.model_copy(update={"replicas": 2}))
    final, best, fifth = report["checkpoints"]
    points = {p["step"]: p["validationLoss"] for p in report["curve"] if "validationLoss" in p}
    lowest = min(points, key=lambda step: points[step])
    assert (final["step"], best["step"], fifth["step"]) == (12, lowest, 5)
    assert lowest < 12
    assert final["metrics"].items() <= report["metrics"].items()
    assert best["metrics"]["loss"] < final["metrics"]["loss"]
    html = (find_run_folder(trained) / "evaluation/report.html").read_text()
    assert f"best<br>step {lowest}" in html

    again = prepare_tiny_run(
        root,
        run="again",
        training=trained.training.dump() | {"steps": 5},
        evaluation={"everySteps": 3, "suites": SUITES},
        checkpoint={"restoreFrom": {"job": "first", "step": 5}},
    )
    log = run_ranks(again)
    assert log.list_facts("loss") == []
    assert len(log.list_facts("validation_loss")) == 1
    exported = drop_speed(evaluate(again)["metrics"])
    assert drop_speed(fifth["metrics"]).items() <= exported.items()
    assert {"loss", "qa.token_f1", "qa.similarity", "mc.accuracy", "task.acc"} <= fifth[
        "metrics"
    ].keys()


def test_what_is_not_there_or_not_whole_is_said(trained: RunConfig) -> None:
    folder = find_run_folder(trained) / "checkpoints"
    store = open_store(trained.run_uri, trained.storage)
    assert find_steps(store, ["final", "step-4", "step-5"]) == {
        "final": 12,
        "step-4": None,
        "step-5": 5,
    }
    (shard,) = folder.glob("step-00000005/*/*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    names = ["step-5", "step-11"]
    changed = {"checkpoints": names, "suites": []}
    evaluation = trained.evaluation.model_copy(update=changed)
    damaged, missing = evaluate(trained.model_copy(update={"evaluation": evaluation}))[
        "checkpoints"
    ]
    assert "has another SHA-256 digest" in damaged["lack"]
    assert missing == {"name": "step-11", "lack": NOT_THERE}


@pytest.mark.parametrize(
    ("name", "origin", "message"),
    [
        ("step-13", None, "step-13 is no step of this run, which has those from 0 to 12"),
        ("step-2", {"job": "first", "step": 12}, "which has those from 12 to 12"),
    ],
)
def test_steps_that_never_come_are_refused(
    root: Path, trained: RunConfig, name: str, origin: dict[str, Any] | None, message: str
) -> None:
    """Where only the data say how many there are, or what the run begins at."""
    config = prepare_tiny_run(
        root,
        run="refused",
        evaluation={"checkpoints": [name]},
        checkpoint={} if origin is None else {"restoreFrom": origin},
    )
    with pytest.raises(ConfigurationError, match=message) as failed:
        run_ranks(config)
    assert failed.value.reason == "CheckpointNeverMade"
