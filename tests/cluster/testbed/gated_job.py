"""A tiny job whose model is not good enough, and whose successor's is.

Below: the contract. Above: the story of a gate, on one machine and on real nodes.

After so few steps the loss still falls, so that `llmtrain next` asks for twice as many; arithmetic
is fp32 on one rank, so that the two losses are known beforehand.
"""

from __future__ import annotations

from typing import Any

NAME, SUCCESSOR = "gated", "gated-2"
STEPS = 8
GATE = "loss < unigram.loss + 0.3"


def describe_gated_job(source: str, **storage: str) -> dict[str, Any]:
    """Return the manifest of a job that fails its gate.

    Args:
        source: URI of its text, a hundred kilobytes of English or more.
        storage: fields of spec.storage.
    """
    return {
        "apiVersion": "llmtrain.dev/v1alpha1",
        "kind": "LLMTrainingJob",
        "metadata": {"name": NAME},
        "spec": {
            "data": {
                "sources": [{"uri": source}],
                "tokenizer": {"kind": "byte"},
                "split": {"method": "tail", "validationFraction": 0.1},
            },
            "model": {"layers": 1, "heads": 2, "hiddenSize": 32},
            "training": {
                "steps": STEPS,
                "batchSize": 8,
                "sequenceLength": 32,
                "precision": "fp32",
                "optimizer": {"learningRate": 0.01, "warmupSteps": 2},
            },
            "evaluation": {"everySteps": STEPS // 8, "maxSequences": 32, "gates": [GATE]},
            "checkpoint": {"everySteps": STEPS},
            "workers": {"resources": {"cpu": 1, "memory": "4Gi"}},
            "storage": storage,
        },
    }
