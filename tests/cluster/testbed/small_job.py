"""A job that trains hundreds of steps in a second, and the corpus that it reads.

Below: Python's own documentation. Above: `agent_world` and `soak_machine`, which kill it.
"""

from __future__ import annotations

from pydoc_data.topics import topics
from typing import Any

BUCKET = "models"
CORPUS_KEY = "topics.txt"
NUM_TOPICS = 12
CHECKPOINT_STEPS = 20


def write_corpus() -> bytes:
    """Return the text that lies at `CORPUS_KEY` of the bucket."""
    return "\n".join(list(topics.values())[:NUM_TOPICS]).encode()


def describe_small_job(*, steps: int, **sections: dict[str, Any]) -> dict[str, Any]:
    """Return the spec of a job of two workers; mappings of `sections` are merged into its own."""
    spec: dict[str, dict[str, Any]] = {
        "data": {
            "sources": [{"uri": f"s3://{BUCKET}/{CORPUS_KEY}"}],
            "tokenizer": {"kind": "byte"},
            "split": {"method": "tail"},
        },
        "model": {"layers": 1, "heads": 2, "hiddenSize": 16},
        "training": {"steps": steps, "batchSize": 4, "sequenceLength": 16, "precision": "fp32"},
        "evaluation": {
            "everySteps": steps,
            "maxSequences": 8,
            "samples": {"prompts": ["The"], "maxNewTokens": 4},
        },
        "checkpoint": {"everySteps": CHECKPOINT_STEPS},
        "workers": {"replicas": 2},
        "storage": {"uri": f"s3://{BUCKET}/runs"},
    }
    return {key: {**spec.get(key, {}), **sections.get(key, {})} for key in spec | sections}
