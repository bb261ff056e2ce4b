"""A run that trains in seconds: the text of Python's own documentation, in a folder store.

Below: `prepare` of the trainer, really run. Above: the trainer's tests.
"""

from __future__ import annotations

from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from llmtrain_api.run import RunConfig
from llmtrain_trainer.prepare import run_prepare
from llmtrain_trainer.progress import Reporter

NUM_TOPICS = 12


def configure_tiny_run(root: Path, *, run: str = "tiny", **sections: Any) -> RunConfig:
    """Describe a run whose store is the folder `root`.

    Args:
        root: the store.
        run: name of the run; runs of one store share prepared data.
        sections: overrides, by field of `RunConfig`; mappings are merged into the defaults.
    """
    data: dict[str, Any] = {
        "namespace": "tests",
        "name": run,
        "uid": "0123456789ab",
        "run_uri": f"s3://tiny-bucket/runs/tests/{run}",
        "data": {
            "sources": [{"uri": "s3://tiny-bucket/topics.txt"}],
            "tokenizer": {"kind": "byte"},
            "split": {"method": "tail", "validationFraction": 0.1},
        },
        "model": {"layers": 2, "heads": 2, "hiddenSize": 32},
        "training": {
            "steps": 12,
            "batchSize": 8,
            "sequenceLength": 32,
            "precision": "fp32",
            "optimizer": {"learningRate": 0.01, "warmupSteps": 2},
        },
        "evaluation": {
            "everySteps": 6,
            "maxSequences": 13,
            "samples": {"prompts": ["The "], "maxNewTokens": 8},
        },
        "checkpoint": {"everySteps": 4, "keepLast": 2},
        "strategy": "ddp",
        "replicas": 1,
        "processes_per_worker": 1,
        "threads_per_process": 1,
        "storage": {"uri": "s3://tiny-bucket", "localRoot": str(root)},
        "rendezvous": {"leaderHost": "127.0.0.1"},
    }
    for name, value in sections.items():
        data[name] = {**data[name], **value} if isinstance(value, dict) else value
    return RunConfig.model_validate(data)


def prepare_tiny_run(root: Path, *, run: str = "tiny", **sections: Any) -> RunConfig:
    """Describe a run and prepare its data; see `configure_tiny_run`."""
    config = configure_tiny_run(root, run=run, **sections)
    source = root / "tiny-bucket" / "topics.txt"
    if not source.exists():
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text("\n".join(list(topics.values())[:NUM_TOPICS]), encoding="utf-8")
    run_prepare(config, Reporter(0, lambda update: None))
    return config


def find_run_folder(config: RunConfig) -> Path:
    """Return the folder in which the run's objects lie."""
    assert config.storage.local_root is not None
    return Path(config.storage.local_root) / config.run_uri.removeprefix("s3://")
