"""The examples made small, each in the order in which one takes up where another ended.

Below: `manifests/examples`, as it is shipped. Above: the test that runs each of them on this
machine, and the one that runs some of them in real pods.
"""

from __future__ import annotations

import json
from pydoc_data.topics import topics
from typing import Any

import yaml

from testbed.requirements import find_repository

PARENTS: dict[str, str | None] = {
    "cpu": None,
    "llama": None,
    "tensor-parallel": None,
    "lstm": None,
    "bert": None,
    "t5": None,
    "classify": "bert",
    "topics": "bert",
    "translate": "t5",
    "chat": "cpu",
    "lora": "cpu",
}
"""Examples that train a model each, and the one whose export `model.from` of it names."""

STEPS = 4
SIZE = 20_000
VOCABULARY_SIZE = 1000
SEQUENCE_LENGTH = 32
BATCH_SIZE = 8
NUM_TOPICS = 12
VALIDATION_FRACTION = 0.3
"""Of so few documents the hundredth that is held out otherwise is none."""


def write_example_files() -> dict[str, bytes]:
    """Return what the examples read, by key of `main_job.CORPUS_BUCKET`."""
    texts = list(topics.values())[:NUM_TOPICS]
    words = [word for text in texts for word in text.split()]
    short = [" ".join(words[at : at + 12]) for at in range(0, 1200, 12)]
    kinds = ["good", "bad"]
    reviews = [{"text": f"{kinds[n % 2]} {t}", "label": kinds[n % 2]} for n, t in enumerate(short)]
    questions = [
        {
            "text": text,
            "topics": [kind for kind, rest in zip(kinds, (2, 3), strict=True) if n % rest],
        }
        for n, text in enumerate(short)
    ]
    pairs = [{"english": text, "german": text.upper()} for text in short]
    chats = [
        {
            "messages": [
                {"role": "user", "content": text},
                {"role": "assistant", "content": text[::-1]},
            ]
        }
        for text in short
    ]
    return {
        **{f"books/{number}.txt": text.encode() for number, text in enumerate(texts)},
        **{f"letters/{number}.txt": text.encode() for number, text in enumerate(short[:10])},
        "reviews.jsonl": _write_lines(reviews),
        "questions.jsonl": _write_lines(questions),
        "pairs.jsonl": _write_lines(pairs),
        "chats/1.jsonl": _write_lines(chats),
    }


def shrink_example(name: str, parent: str | None) -> dict[str, Any]:
    """Return an example with all that it says but for sizes, so that it ends in seconds.

    Args:
        name: of the example.
        parent: the export that stands in for what its `model.from` names.
    """
    path = find_repository() / "manifests" / "examples" / f"{name}.yaml"
    job: dict[str, Any] = yaml.safe_load(path.read_text())
    spec = job["spec"]
    data, model, training = spec["data"], spec["model"], spec["training"]
    if "vocabularySize" in data.get("tokenizer", {}):
        data["tokenizer"]["vocabularySize"] = VOCABULARY_SIZE
    data.setdefault("split", {})["validationFraction"] = VALIDATION_FRACTION
    if "pack" in data:
        data["pack"]["sequenceLength"] = SEQUENCE_LENGTH
    if parent is not None:
        model["from"] = parent
    elif "size" in model:
        model["size"] = SIZE
    else:
        model |= {"layers": 2, "heads": 2, "hiddenSize": 32}
    if "steps" in training:
        training["steps"] = STEPS
    training |= {
        "batchSize": BATCH_SIZE,
        "sequenceLength": SEQUENCE_LENGTH,
        # `auto` takes seconds to measure what is fastest.
        "precision": "fp32",
    }
    training.setdefault("optimizer", {})["warmupSteps"] = 1
    evaluation = spec.setdefault("evaluation", {})
    if "everySteps" in evaluation:
        evaluation["everySteps"] = STEPS // 2
    evaluation |= {"maxSequences": 8, "gates": []}
    evaluation.setdefault("samples", {})["maxNewTokens"] = 4
    if "tensorParallel" in spec["workers"]:
        spec["workers"] |= {"processesPerWorker": 2, "tensorParallel": 2}
    spec.setdefault("checkpoint", {})["everySteps"] = STEPS // 2
    return job


def _write_lines(records: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()
