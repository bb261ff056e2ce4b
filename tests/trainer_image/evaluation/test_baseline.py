"""What an older run reached, and refusals before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmtrain_api.run import RunConfig
from llmtrain_trainer.evaluation.baseline import check_baseline_labels, read_baseline
from llmtrain_trainer.failures import ConfigurationError
from llmtrain_trainer.prepare import run_prepare
from llmtrain_trainer.progress import Reporter
from testbed.tiny_run import configure_tiny_run


def configure(root: Path, gate: str, report: dict[str, Any] | None) -> RunConfig:
    path = root / "tiny-bucket/runs/old/evaluation/report.json"
    path.parent.mkdir(parents=True)
    if report is not None:
        path.write_text(json.dumps(report))
    evaluation = {"gates": [gate], "baseline": {"run": "s3://tiny-bucket/runs/old/"}}
    return configure_tiny_run(root, evaluation=evaluation)


def test_metrics_of_an_older_run(tmp_path: Path) -> None:
    report = {"metrics": {"loss": 2.5, "unigram.loss": 5.5, "bits_per_byte": None}}
    config = configure(tmp_path, "loss < baseline.loss", report)
    assert read_baseline(config)["baseline.loss"] == 2.5
    assert read_baseline(configure_tiny_run(tmp_path)) == {}


@pytest.mark.parametrize(
    ("report", "complaint"),
    [
        (None, r"s3://tiny-bucket/runs/old has no evaluation/report\.json"),
        ({"validationLoss": 2.5}, "has no metrics: it was written by an older version"),
        ({"metrics": {"loss": None}}, r"has no baseline\.loss for spec\.evaluation\.gates\[0\]"),
    ],
)
def test_a_run_that_cannot_be_compared_with_is_refused_before_training(
    tmp_path: Path, report: dict[str, Any] | None, complaint: str
) -> None:
    config = configure(tmp_path, "loss < baseline.loss", report)
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        run_prepare(config, Reporter(0, lambda update: None))
    assert caught.value.reason == "BaselineInvalid"


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (["a", "b"], None),
        (["b", "c"], r"only s3://tiny-bucket/runs/old has a, only the data of this job c$"),
        ([], r"only s3://tiny-bucket/runs/old has a, b, only the data of this job no label$"),
    ],
)
def test_a_run_of_other_labels_is_no_measure(
    tmp_path: Path, labels: list[str], complaint: str | None
) -> None:
    known = [{"label": "a"}, {"label": "b"}]
    report = {"metrics": {"loss": 2.5}, "classification": {"labels": known}}
    config = configure(tmp_path, "loss < baseline.loss", report)
    if complaint is None:
        check_baseline_labels(config, labels)
        return
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        check_baseline_labels(config, labels)
    assert caught.value.reason == "BaselineInvalid"


def test_labels_are_compared_once_the_data_is_there(tmp_path: Path) -> None:
    report = {"metrics": {"loss": 2.5}, "classification": {"labels": [{"label": "a"}]}}
    config = configure(tmp_path, "loss < baseline.loss", report)
    (tmp_path / "tiny-bucket/topics.txt").write_text("some words of text\n" * 200)
    with pytest.raises(ConfigurationError, match=r"spec\.evaluation\.baseline\.run: its metrics"):
        run_prepare(config, Reporter(0, lambda update: None))
