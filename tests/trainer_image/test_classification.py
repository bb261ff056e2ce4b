"""A classifier, from labelled documents to its report."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from llmtrain_api.run import RunConfig
from llmtrain_trainer.dataset.document_index import digest_text
from llmtrain_trainer.dataset.loading import open_run_dataset
from llmtrain_trainer.evaluate import run_evaluate
from llmtrain_trainer.failures import DataError, PreemptedError
from llmtrain_trainer.objective.choosing import choose_objective
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.store import open_store
from testbed.ranks import Fate, RunningRanks, run_ranks
from testbed.tiny_run import find_run_folder, prepare_tiny_run

WORDS = {"fruit": ("apple", "pear", "plum"), "tool": ("saw", "axe", "drill")}
LOSS_TOLERANCE = 1e-6
NO_SHAPE = {"layers": None, "heads": None, "hiddenSize": None}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with texts of two classes, one of them twice as often."""
    root = tmp_path_factory.mktemp("labels")
    source = root / "tiny-bucket" / "texts.jsonl"
    source.parent.mkdir(parents=True)
    draw = random.Random(0)
    lines = []
    for number in range(180):
        label = "fruit" if number % 3 else "tool"
        words = [draw.choice(["the", "a", "some", "old"]) for _ in range(draw.randrange(1, 6))]
        words.insert(draw.randrange(1, len(words) + 1), draw.choice(WORDS[label]))
        text = " ".join([*words, str(number)])
        lines.append(json.dumps({"text": text, "kind": label, "same": "one"}) + "\n")
    source.write_text("".join(lines), encoding="utf-8")
    lines = []
    for number in range(300):
        kinds = [kind for kind in WORDS if draw.random() < 0.5]
        words = [draw.choice(["the", "a", "some", "old"]), *(draw.choice(WORDS[k]) for k in kinds)]
        text = " ".join([*draw.sample(words, len(words)), str(number)])
        lines.append(json.dumps({"text": text, "kinds": kinds}) + "\n")
    source.with_name("mixed.jsonl").write_text("".join(lines), encoding="utf-8")
    return root


def prepare_labels(
    root: Path,
    run: str,
    *,
    field: str = "kind",
    source: dict[str, Any] | None = None,
    steps: int = 8,
    **sections: Any,
) -> RunConfig:
    training = {
        "objective": "classification",
        "classWeights": "balanced",
        "steps": steps,
        "batchSize": 16,
        "optimizer": {"learningRate": 0.003, "warmupSteps": 2},
    }
    return prepare_tiny_run(
        root,
        run=run,
        data={
            "sources": [
                source or {"uri": "s3://tiny-bucket/texts.jsonl", "fields": {"label": field}}
            ],
            "tokenizer": {"kind": "bpe", "vocabularySize": 400},
            "split": {"method": "document", "validationFraction": 0.2},
        },
        model=sections.pop("model", {"architecture": "bert"}),
        training={**training, **sections.pop("training", {})},
        evaluation={
            "everySteps": 20,
            "samples": {"prompts": ["an old axe 7"]},
            **sections.pop("evaluation", {}),
        },
        **sections,
    )


def test_a_classifier_learns_and_loads(root: Path) -> None:
    config = prepare_labels(root, "learns", steps=100)
    run_ranks(config)
    result = run_evaluate(config, RankGroup(), Reporter(0, lambda update: None))
    folder = find_run_folder(config)
    report = json.loads((folder / "evaluation" / "report.json").read_text())
    assert result.f1_macro is not None
    assert result.accuracy is not None
    assert result.accuracy > 0.9 > report["metrics"]["majority.accuracy"]
    assert result.f1_macro > 0.9
    assert report["metrics"]["tfidf.accuracy"] > 0.9
    assert report["metrics"]["accuracy"] == result.accuracy
    low, high = report["classification"]["intervals"]["f1_macro"]
    assert low <= result.f1_macro <= high
    table = pq.read_table(folder / "evaluation" / "predictions.parquet").to_pylist()
    assert len(table) == report["heldOutTokens"]
    lines = (root / "tiny-bucket" / "texts.jsonl").read_text().splitlines()
    labels = {digest_text(json.loads(line)["text"]): json.loads(line)["kind"] for line in lines}
    assert all(labels[row["document"]] == row["label"] for row in table)
    assert report["samples"][0]["continuation"] == "tool"

    tokenizer = AutoTokenizer.from_pretrained(folder / "export")
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder / "export").eval()
    read = tokenizer(["a pear 3", "some old drill and a saw 4"], padding=True, return_tensors="pt")
    ids = torch.tensor(tokenizer("a pear 3")["input_ids"])
    assert tokenizer.decode(ids[[0, -1]]) == "<|start|><|endoftext|>"
    logits = model(input_ids=read["input_ids"], attention_mask=read["attention_mask"]).logits
    assert [model.config.id2label[int(best)] for best in logits.argmax(dim=1)] == ["fruit", "tool"]


MIXED = {"uri": "s3://tiny-bucket/mixed.jsonl", "fields": {"labels": "kinds"}}


def test_a_document_may_have_several_labels_or_none(root: Path) -> None:
    model = {"architecture": "llama"}
    evaluation = {"checkpoints": ["step-2"]}
    config = prepare_labels(
        root, "sets", source=MIXED, model=model, steps=100, evaluation=evaluation
    )
    run_ranks(config)
    result = run_evaluate(config, RankGroup(), Reporter(0, lambda update: None))
    folder = find_run_folder(config)
    report = json.loads((folder / "evaluation" / "report.json").read_text())
    metrics = report["metrics"]
    assert result.accuracy == metrics["accuracy"]
    assert metrics["accuracy"] > 0.8 > metrics["majority.accuracy"]
    assert min(metrics["f1_macro"], metrics["f1_micro"], metrics["average_precision"]) > 0.9
    assert metrics["tfidf.f1_macro"] > 0.9
    assert report["checkpoints"][0]["metrics"]["f1_macro"] < metrics["f1_macro"]
    assert metrics["loss"] < metrics["unigram.loss"] == pytest.approx(0.69, abs=0.02)
    assert [row["label"] for row in report["classification"]["labels"]] == ["fruit", "tool"]
    table = pq.read_table(folder / "evaluation" / "predictions.parquet").to_pylist()
    assert len(table) * len(WORDS) == report["heldOutTokens"]
    assert {len(row["labels"]) for row in table} == {0, 1, 2}
    assert report["samples"][0]["continuation"] == "tool"
    findings = json.loads((folder / "evaluation" / "findings.json").read_text())["findings"]
    assert {finding["kind"] for finding in findings} <= {"mislabelled", "weak-slice"}
    assert {"slices", "doubts", "examples"} == report["classification"]["errors"].keys()
    assert "Kinds of documents" in (folder / "evaluation" / "report.html").read_text()

    exported: Any = AutoModelForSequenceClassification.from_pretrained(folder / "export").eval()
    assert exported.config.problem_type == "multi_label_classification"
    tokenizer = AutoTokenizer.from_pretrained(folder / "export")
    said: Any = pipeline("text-classification", model=exported, tokenizer=tokenizer, top_k=None)(
        ["a pear some drill 3", "the old 4"]
    )
    named = [{one["label"] for one in text if one["score"] > 0.5} for text in said]
    assert named == [{"fruit", "tool"}, set()]


@pytest.mark.parametrize(("kind", "source"), [("one", None), ("several", MIXED)])
def test_labels_keep_their_loss_over_ranks_passes_and_resumption(
    root: Path, kind: str, source: dict[str, Any] | None
) -> None:
    log = run_ranks(prepare_labels(root, f"alone-{kind}", source=source))
    losses = log.list_facts("loss")
    # Documents are shorter than sequences, and only what is read of them counts.
    assert all(16 < tokens < 16 * 32 for tokens in log.list_facts("step_tokens"))
    disturbed = prepare_labels(
        *(root, f"disturbed-{kind}"),
        source=source,
        training={"microBatchSize": 4},
        strategy="fsdp",
        processes_per_worker=2,
    )
    ranks = RunningRanks(disturbed, fate=Fate(leaves_in_step=3))
    with pytest.raises(PreemptedError):
        ranks.finish()
    told = ranks.logs[0].list_facts("loss")
    alone = prepare_labels(root, f"disturbed-{kind}", source=source)
    told += run_ranks(alone, round_number=2).list_facts("loss")
    assert told == pytest.approx(losses, rel=LOSS_TOLERANCE, abs=0)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # by peft
@pytest.mark.filterwarnings("ignore:Could not find a config file")  # of a base that has moved
def test_adapters_and_the_layer_that_decides_are_trained_together(root: Path) -> None:
    base = prepare_labels(root, "base", steps=2)
    run_ranks(base)
    config = prepare_labels(
        root, "adapters", model={**NO_SHAPE, "from": f"{base.run_uri}/export", "dropout": 0.0},
        training={"lora": {"rank": 4}, "optimizer": {"learningRate": 0.01, "warmupSteps": 2}},
        evaluation={"everySteps": 4, "maxSequences": 1000, "checkpoints": ["step-4"]},
    )  # fmt: skip
    run_ranks(config)
    export, before = find_run_folder(config) / "export", find_run_folder(base) / "export"
    merged: Any = AutoModelForSequenceClassification.from_pretrained(export).eval()
    plain: Any = AutoModelForSequenceClassification.from_pretrained(before).eval()
    assert not torch.equal(merged.classifier.weight, plain.classifier.weight)
    alone: Any = PeftModel.from_pretrained(plain, str(export / "adapter")).eval()
    read = AutoTokenizer.from_pretrained(export)(["a pear 3"], return_tensors="pt")
    ids, mask = read["input_ids"], read["attention_mask"]
    logits = [m(input_ids=ids, attention_mask=mask).logits for m in (merged, alone)]
    torch.testing.assert_close(logits[0], logits[1])
    result = run_evaluate(config, RankGroup(), Reporter(0, lambda update: None))
    points = json.loads((find_run_folder(config) / "curves.json").read_text())
    measured = {p["step"]: p["validationLoss"] for p in points if "validationLoss" in p}
    assert result.checkpoints is not None
    assert result.checkpoints[0].metrics["loss"] == pytest.approx(measured[4], abs=1e-5)
    assert result.checkpoints[0].metrics["loss"] != result.validation_loss


def test_one_class_is_none(root: Path) -> None:
    config = prepare_labels(root, "one", field="same")
    dataset = open_run_dataset(open_store(config.run_uri, config.storage), config)
    with pytest.raises(DataError) as caught:
        choose_objective(config, dataset)
    assert caught.value.reason == "LabelsInvalid"
