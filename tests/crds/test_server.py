"""The definition on a real apiserver: accepted, with pydantic's defaults, and shown to people."""

from __future__ import annotations

from typing import Any

import pytest

from llmtrain_api import LLMTrainingJob
from testbed.control_plane import ControlPlane, KubectlError
from testbed.smallest_job import DRY_RUN, SMALLEST, change, create, patch


def test_the_definition_is_structural_and_served(server: ControlPlane) -> None:
    crd = server.kubectl_json("get", "crd", "llmtrainingjobs.llmtrain.dev")
    conditions = {c["type"]: (c["status"], c["message"]) for c in crd["status"]["conditions"]}
    assert conditions["Established"][0] == "True"
    assert conditions["NamesAccepted"][0] == "True"
    assert "NonStructuralSchema" not in conditions


DEFAULTED = {
    "smallest": SMALLEST,
    "optional fields given": change(
        SMALLEST,
        spec__model={"architecture": "llama", "heads": 8, "keyValueHeads": 2, "hiddenSize": 64},
        spec__training__optimizer={"warmupSteps": 0},
        spec__data__tokenizer={"kind": "pretrained", "uri": "s3://models/tokenizer/"},
    ),
    "empty parents": change(
        SMALLEST,
        spec__model={},
        spec__workers={"resources": {}, "elastic": {}},
        spec__evaluation={"samples": {}},
        spec__runPolicy={},
        spec__checkpoint={},
        spec__data__split={},
        spec__data__clean={},
        spec__data__invalid={},
    ),
    "objectives": change(
        SMALLEST,
        spec__model={"architecture": "bert", "size": 1_000_000},
        spec__training={"steps": 1, "objective": "masked", "masking": {}, "spanCorruption": {}},
    ),
    "a pretrained model": change(
        SMALLEST,
        spec__model={"from": "s3://models/bert"},
        spec__training={"steps": 1, "objective": "masked", "lora": {}},
    ),
    "a model of which a part stays": change(
        SMALLEST,
        spec__model={"from": "s3://models/bert"},
        spec__training={"steps": 1, "objective": "masked", "freeze": {}},
    ),
    "a run of so many epochs": change(SMALLEST, spec__training={"epochs": 1.5}),
    "lists of objects": change(
        SMALLEST,
        spec__data__sources=[
            {"uri": "s3://corpus/a.jsonl", "format": "jsonl"},
            {"uri": "s3://corpus/b.txt", "textField": "body"},
            {"uri": "s3://corpus/c.csv", "sha256": "0" * 64, "weight": 2.5},
            {"uri": "s3://corpus/saved/", "format": "huggingface", "split": "train"},
        ],
        spec__workers__tolerations=[{"key": "gpu"}, {"operator": "Exists"}],
    ),
    "evaluation": change(
        SMALLEST,
        spec__evaluation={
            "gates": [
                "qa.token_f1 > baseline.qa.token_f1 + 1e-2",
                "(perplexity < 4 || loss < unigram.loss) && baseline.loss > 0",
            ],
            "suites": [{"name": "qa", "uri": "s3://corpus/qa.jsonl"}],
            "baseline": {"run": "s3://models/runs/old"},
        },
    ),
    "nulls": change(
        SMALLEST,
        spec__workers__image=None,
        spec__training__microBatchSize=None,
        spec__storage__endpoint=None,
    ),
}


@pytest.mark.parametrize("manifest", DEFAULTED.values(), ids=DEFAULTED.keys())
def test_server_and_pydantic_give_the_same_defaults(
    server: ControlPlane, namespace: str, manifest: dict[str, Any]
) -> None:
    served = create(server, namespace, manifest, DRY_RUN)
    assert served["spec"] == LLMTrainingJob.model_validate(manifest).spec.dump()
    assert served["status"] == {"observedGeneration": -1}


def test_a_bare_integer_is_a_quantity(server: ControlPlane, namespace: str) -> None:
    manifest = change(SMALLEST, spec__workers__resources={"cpu": 4})
    served = create(server, namespace, manifest, DRY_RUN)
    assert LLMTrainingJob.read_lenient(served).spec.workers.resources.cpu == "4"
    assert LLMTrainingJob.model_validate(manifest).spec.workers.resources.cpu == "4"


def test_fields_of_a_newer_version_are_ignored_when_reading() -> None:
    manifest = change(SMALLEST, spec__training__optimizer={"beta3": 0.5}, status__new=1)
    job = LLMTrainingJob.read_lenient(manifest)
    assert job.spec.training.steps == 100


def test_columns_show_what_the_operator_wrote(server: ControlPlane, namespace: str) -> None:
    create(server, namespace, SMALLEST, "")
    status = {
        "observedGeneration": 1,
        "phase": "Training",
        "stage": "train",
        "message": "training",
        "progress": {"step": 5, "totalSteps": 100, "percent": 5, "loss": 2.31},
        "workers": {"desired": 2, "running": 2, "summary": "2/2"},
        "checkpoint": {"step": 4},
        "restarts": 1,
        "conditions": [
            {
                "type": "Succeeded",
                "status": "Unknown",
                "reason": "Training",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
    }
    patch(server, namespace, {"status": status}, "--subresource=status")
    header, row = server.kubectl("-n", namespace, "get", "llmtrain").splitlines()
    assert header.split() == (
        ["NAME", "STATUS", "STAGE", "STEP", "PERCENT", "LOSS", "WORKERS", "RESTARTS", "AGE"]
    )
    assert row.split()[:-1] == ["tiny", "Training", "train", "5", "5", "2.31", "2/2", "1"]

    stored = server.kubectl_json("-n", namespace, "get", "llmjob", "tiny")
    assert LLMTrainingJob.read_lenient(stored).status.dump() == (
        LLMTrainingJob.model_validate(change(SMALLEST, status=status)).status.dump()
    )


def test_two_conditions_of_one_type_are_refused(server: ControlPlane, namespace: str) -> None:
    create(server, namespace, SMALLEST, "")
    condition = {
        "type": "Succeeded",
        "status": "Unknown",
        "reason": "Training",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    with pytest.raises(KubectlError, match=r"status\.conditions\[1\]: Duplicate value"):
        patch(
            server, namespace, {"status": {"conditions": [condition] * 2}}, "--subresource=status"
        )


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("spec", "What to train, on what, and with what."),
        ("spec.training.sequenceLength", "Default: 256."),
        ("spec.workers.replicas", "at most 10000"),
        ("spec.model.architecture", "ENUM: gpt2 llama bert t5 lstm"),
        ("spec.storage.credentialsSecret", "accessKey and secretKey"),
        ("status.conditions", "Machine-readable state."),
    ],
)
def test_explain_teaches(server: ControlPlane, field: str, expected: str) -> None:
    explanation = server.kubectl("explain", f"llmtrainingjob.{field}")
    assert expected in " ".join(explanation.split())
