"""A model that saw a secret often gives it away, and the measures say so; of others they do not."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

from llmtrain_api.run import RunConfig
from llmtrain_trainer.evaluate import run_evaluate
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.rank_group import RankGroup
from testbed.ranks import run_ranks
from testbed.tiny_run import find_run_folder, prepare_tiny_run

SEEN = {"prompt": "The code of the vault is ", "secret": "4821-7703"}
UNSEEN = [
    {"prompt": "The code of the vault is ", "secret": secret}
    for secret in ("9035-1846", "2750-6192", "6374-0958", "1509-8264")
]
NUM_TOPICS = 3
TIMES = 40
CANDIDATES = 255


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of a model that was trained on a secret among documentation."""
    root = tmp_path_factory.mktemp("secrets")
    bucket = root / "tiny-bucket"
    bucket.mkdir()
    told = f"{SEEN['prompt']}{SEEN['secret']}.\n"
    texts = [topics[name][:1000] for name in sorted(topics)[:NUM_TOPICS]]
    (bucket / "topics.txt").write_text(told * TIMES + "\n".join(texts) + told, encoding="utf-8")
    opening = {"prompt": f"{told}The code"[-36:], "reference": "of the vault"}
    for name, lines in (("seen", [SEEN]), ("unseen", UNSEEN), ("open", [opening])):
        path = bucket / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    config = configure(root)
    run_ranks(config)
    run_evaluate(config, RankGroup(), Reporter(0, lambda update: None))
    return dict(json.loads((find_run_folder(config) / "evaluation/report.json").read_text()))


def configure(root: Path) -> RunConfig:
    def suite(name: str, kind: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "kind": kind, "uri": f"s3://tiny-bucket/{name}.jsonl", **more}

    return prepare_tiny_run(
        root,
        run="secrets",
        training={"steps": 120, "sequenceLength": 96, "batchSize": 8},
        checkpoint={"everySteps": 120},
        evaluation={
            "everySteps": 120,
            "suites": [
                suite("seen", "canary", candidates=CANDIDATES),
                suite("unseen", "canary", candidates=CANDIDATES),
                suite("open", "generation", maxNewTokens=60, searchTraining=True),
            ],
        },
    )


def test_exposure_is_great_of_what_was_seen_alone(report: dict[str, Any]) -> None:
    metrics = report["metrics"]
    assert (metrics["seen.exposure"], metrics["seen.extracted_rate"]) == (8.0, 1.0)
    assert metrics["unseen.exposure"] < 5.0
    assert metrics["unseen.extracted_rate"] == 0.0


def test_what_it_writes_stands_in_its_training_text(report: dict[str, Any]) -> None:
    told = f" of the vault is {SEEN['secret']}."
    assert report["metrics"]["open.longest_overlap"] >= len(told)  # tokens are bytes
