"""Parts of a job that do not go together: the rules of `llmtrain_api.across`."""

from __future__ import annotations

from typing import Any

from testbed.refusal import Refusal

DIVIDED = {"processesPerWorker": 2, "tensorParallel": 2}
SUITE: dict[str, Any] = {"name": "qa", "uri": "s3://corpus/qa.jsonl"}

COMBINATIONS = {
    "rows of another length than sequences": Refusal(
        changes={"spec__data__pack": {"sequenceLength": 100}},
        field="data.pack.sequenceLength",
        server_says="must be training.sequenceLength",
    ),
    "evaluation on a part that there is not": Refusal(
        changes={"spec__evaluation": {"split": "test"}},
        field="evaluation.split",
        server_says="needs data.split.testFraction",
    ),
    "checkpoint after the last step": Refusal(
        changes={"spec__training__steps": 9, "spec__evaluation": {"checkpoints": ["step-10"]}},
        field="evaluation.checkpoints",
        server_says="step-N must be a step of the run, at most training.steps",
    ),
    "answers as long as the context": Refusal(
        changes={"spec__evaluation": {"suites": [SUITE | {"maxNewTokens": 256}]}},
        field="evaluation.suites",
        server_says="must be less than training.sequenceLength",
    ),
    "suite for a model that writes nothing": Refusal(
        changes={
            "spec__model": {"architecture": "bert"},
            "spec__evaluation": {"suites": [SUITE]},
        },
        field="evaluation.suites",
        server_says="are for models that write text",
    ),
    "gate on what bert has not": Refusal(
        changes={
            "spec__model": {"architecture": "bert"},
            "spec__evaluation": {"gates": ["bits_per_byte < 2"]},
        },
        field="evaluation.gates",
        server_says="bits_per_byte is measured for objective: causal only",
    ),
    "gate on labels that there are not": Refusal(
        changes={"spec__evaluation": {"gates": ["loss < 9", "f1_macro > 0.5"]}},
        field="evaluation.gates",
        server_says="are measured for objective: classification only",
    ),
    "blocks computed again that there are not": Refusal(
        changes={
            "spec__model": {"architecture": "lstm"},
            "spec__training__activationCheckpointing": "full",
        },
        field="training.activationCheckpointing",
        server_says="must be none for architecture: lstm",
    ),
    "batch that ranks do not divide": Refusal(
        changes={
            "spec__training__batchSize": 30,
            "spec__workers": {"replicas": 2, "processesPerWorker": 2},
        },
        field="training.batchSize",
        server_says="must be a multiple of the world size",
    ),
    "an architecture that is not divided": Refusal(
        changes={"spec__workers": DIVIDED},
        field="workers.tensorParallel",
        server_says="gpt2, bert, t5 and lstm have none",
    ),
    "heads that groups do not divide": Refusal(
        changes={
            "spec__workers": DIVIDED,
            "spec__model": {
                "architecture": "llama",
                "heads": 6,
                "keyValueHeads": 3,
                "hiddenSize": 96,
            },
        },
        field="workers.tensorParallel",
        server_says="must be multiples of workers.tensorParallel",
    ),
    "rows of divided matrices": Refusal(
        changes={
            "spec__workers": DIVIDED,
            "spec__model": {"architecture": "llama"},
            "spec__training__optimizer": {"kind": "adafactor"},
        },
        field="workers.tensorParallel",
        server_says="is for optimizer.kind adamw and muon",
    ),
    "adapters of divided matrices": Refusal(
        changes={
            "spec__workers": DIVIDED,
            "spec__model": {"from": "s3://corpus/models/llama"},
            "spec__training__lora": {},
        },
        field="workers.tensorParallel",
        server_says="is without training.lora",
    ),
    "warm-up longer than training": Refusal(
        changes={"spec__training__optimizer": {"warmupSteps": 101}},
        field="training.optimizer.warmupSteps",
        server_says="must be at most training.steps",
    ),
}
