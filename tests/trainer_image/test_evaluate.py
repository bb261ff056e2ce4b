"""From a trained run to its report, through the exported model."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from transformers import AutoTokenizer

from llmtrain_api.evaluation import HeldOut
from llmtrain_api.records import GateResult, Stage
from llmtrain_api.run import RunConfig
from llmtrain_trainer.dataset.loading import open_run_dataset
from llmtrain_trainer.evaluate import choose_split, run_evaluate
from llmtrain_trainer.evaluation.losses import compute_unigram_loss, convert_to_bits_per_byte
from llmtrain_trainer.failures import StoreError
from llmtrain_trainer.progress import Reporter
from llmtrain_trainer.rank_group import RankGroup
from llmtrain_trainer.store import open_store
from testbed.ranks import run_ranks
from testbed.tiny_judge import save_judge
from testbed.tiny_run import find_run_folder, prepare_tiny_run

CAUSAL = ("gpt2", "llama", "lstm")
GATES = ["loss < unigram.loss + 50", "perplexity < 2 || accuracy > 2"]
SUITES = [
    {
        "name": "qa",
        "uri": "s3://tiny-bucket/qa.jsonl",
        "maxNewTokens": 4,
        "consistencySamples": 2,
        "searchTraining": True,
        "lexicon": "s3://tiny-bucket/words.txt",
        "entailmentModel": "s3://tiny-bucket/judge",
    },
    {"name": "mc", "uri": "s3://tiny-bucket/mc.jsonl", "kind": "multiple-choice"},
    {"name": "swap", "uri": "s3://tiny-bucket/swap.jsonl", "kind": "counterfactual"},
    {"name": "leak", "uri": "s3://tiny-bucket/leak.jsonl", "kind": "canary", "candidates": 15},
]
LINES: dict[str, dict[str, Any]] = {
    "qa": {"prompt": "The ", "references": ["end", "start"], "source": "The end."},
    "mc": {"prompt": "The ", "choices": ["the", "\u0416\u0416"], "answer": 0},
    "swap": {"prompt": "A {} ", "terms": ["cat", "dog"], "continuation": "is"},
    "leak": {"prompt": "The key ", "secret": "9f3-21"},
}
AUTO_CLASSES = {"bert": "AutoModelForMaskedLM", "t5": "AutoModelForSeq2SeqLM"}


def train(architecture: str, root: Path, **training: Any) -> RunConfig:
    model: dict[str, Any] = {"architecture": architecture, "layers": 2, "hiddenSize": 32}
    model["heads"] = None if architecture == "lstm" else 2
    sections = {
        "model": model,
        "evaluation": {"maxSequences": 100_000, "gates": GATES},
        "training": {"steps": 12, **training},
    }
    if architecture in CAUSAL:
        sections["evaluation"] |= {"suites": SUITES, "gates": [*GATES, "qa.token_f1 >= 0"]}
        for name, line in LINES.items():
            path = root / "tiny-bucket" / f"{name}.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(line) + "\n")
        (root / "tiny-bucket" / "words.txt").write_text("# rude\ndarn\n")
        save_judge(root / "tiny-bucket" / "judge")
    config = prepare_tiny_run(root, run=architecture, **sections)
    run_ranks(config)
    return config


@pytest.fixture(scope="module", params=["gpt2", "llama", "lstm", "bert", "t5"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return train(request.param, tmp_path_factory.mktemp("store"))


def evaluate(config: RunConfig) -> dict[str, Any]:
    return dict(run_evaluate(config, RankGroup(), Reporter(0, lambda update: None)).dump())


def test_export_loads_and_measures_as_training_did(trained: RunConfig) -> None:
    result = evaluate(trained)
    folder = find_run_folder(trained)
    report = json.loads((folder / "evaluation/report.json").read_text())
    trained_loss = report["curve"][-1]["validationLoss"]

    assert result["validationLoss"] == pytest.approx(trained_loss, abs=1e-5)
    assert result["perplexity"] == pytest.approx(math.exp(trained_loss), rel=1e-4)
    assert result["validationLoss"] < math.log(257) - 0.5
    assert 0.0 < result["accuracy"] < 1.0
    assert ("bitsPerByte" in result) == (trained.model.architecture in CAUSAL)
    (sample,) = report["samples"]
    assert sample["prompt"].startswith("The " if trained.model.architecture in CAUSAL else "")
    assert len(sample["prompt"]) > 0
    assert len(sample["continuation"]) > 0
    html = (folder / "evaluation/report.html").read_text()
    assert "<svg" in html
    assert "fails 1 of" in html

    if trained.model.architecture in CAUSAL:
        places = report["positions"]
        assert [item["last"] for item in places] == [1, 3, 7, 15, 31, 32]
        targets = [item["targets"] for item in places]
        assert sum(targets) == report["heldOutTokens"]
        mean = np.average([item["loss"] for item in places], weights=targets)
        assert mean == pytest.approx(result["validationLoss"], abs=1e-9)
        (asked, chosen, swapped, exposed) = report["suites"]
        assert (asked["metrics"]["toxic_rate"], asked["metrics"]["longest_overlap"]) == (0.0, 0.0)
        gap = swapped["metrics"]["likelihood_gap"]
        assert gap == swapped["metrics"]["largest_gap"] > 0.0
        assert 0.0 <= report["metrics"]["leak.exposure"] <= 4.0
        assert exposed["worst"][0]["answer"].endswith(" of 16")
        assert asked["metrics"]["exact_match"] == report["metrics"]["qa.exact_match"] == 0.0
        assert asked["worst"][0]["place"] == "s3://tiny-bucket/qa.jsonl:1"
        assert asked["metrics"]["unsupported_rate"] in (0.0, 1.0)
        assert 0.0 <= asked["metrics"]["self_consistency"] <= 1.0
        assert ("similarity" in asked["metrics"]) == (trained.model.architecture != "lstm")
        assert ("bertscore_f1" in asked["metrics"]) == (trained.model.architecture != "lstm")
        told = [asked["metrics"].get(f"{name}_share", 0.0) for name in ("entailed", "contradicted")]
        assert 0.0 <= sum(told) <= 1.0
        assert chosen["metrics"] == {"accuracy": 1.0, "accuracy_per_byte": 1.0, "chance": 0.5}
        assert report["gates"][2]["passed"]
        assert "Suite qa" in html

    verdict = json.loads((folder / "export/verdict.json").read_text())
    assert (verdict["passed"], [gate["gate"] for gate in verdict["gates"]][:2]) == (False, GATES)
    judged = [GateResult.model_validate(gate) for gate in result["gates"]]
    assert [gate.passed for gate in judged[:2]] == [True, False]
    assert judged[1].value == pytest.approx(report["metrics"]["perplexity"])


def ask_more(config: RunConfig) -> RunConfig:
    """Return the run with several batches in each suite."""
    root = Path(str(config.storage.local_root)) / "tiny-bucket"
    for name, line in LINES.items():
        prompts = [str(line["prompt"])[: 4 + i % 3] + "a {} is"[: i % 8] for i in range(9)]
        if name == "swap":
            prompts = [f"{prompt[:3]} {{}}" for prompt in prompts]
        lines = [json.dumps(line | {"prompt": prompt}) + "\n" for prompt in prompts]
        (root / f"many-{name}.jsonl").write_text("".join(lines))
    evaluation = config.evaluation.dump()
    for suite in evaluation["suites"]:
        suite["uri"] = f"s3://tiny-bucket/many-{suite['name']}.jsonl"
    training = config.training.dump() | {"microBatchSize": 2}
    told = {"evaluation": evaluation, "training": training}
    return RunConfig.model_validate(config.dump() | told)


@pytest.mark.parametrize("trained", ["gpt2"], indirect=True)
def test_two_ranks_find_out_the_same_to_the_last_bit(trained: RunConfig) -> None:
    config = ask_more(trained)
    found = []
    for num_ranks in (1, 2):
        ranks = config.model_copy(update={"replicas": num_ranks})
        result = run_ranks(ranks, stage=Stage.EVALUATE).result
        report = json.loads((find_run_folder(config) / "evaluation/report.json").read_text())
        for name in ("qa.tokens_per_second", "qa.latency_seconds"):
            assert report["metrics"].pop(name) > 0.0
            del report["suites"][0]["metrics"][name.removeprefix("qa.")]
        found.append((result, report))
    assert found[0] == found[1]
    assert [suite["examples"] for suite in found[0][1]["suites"]] == [9] * len(SUITES)


def test_export_is_what_transformers_expects(trained: RunConfig) -> None:
    folder = find_run_folder(trained) / "export"
    name = AUTO_CLASSES.get(trained.model.architecture, "AutoModelForCausalLM")
    model: Any = getattr(transformers, name).from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    card = (folder / "README.md").read_text()
    assert "library_name: transformers" in card
    assert name in card
    if name == "AutoModelForMaskedLM":
        ids = tokenizer(f"The {tokenizer.mask_token}", return_tensors="pt")["input_ids"]
        assert ids[0, -1] == tokenizer.mask_token_id
        assert model(ids).logits.shape == (1, ids.shape[1], model.config.vocab_size)
        return
    prompt = "The " if name == "AutoModelForCausalLM" else "The <extra_id_0>"
    inputs = tokenizer(prompt, return_tensors="pt")
    kept = inputs["input_ids"].shape[1] if name == "AutoModelForCausalLM" else 1
    written = model.generate(
        inputs["input_ids"], min_new_tokens=5, max_new_tokens=5, do_sample=False
    )
    assert written.shape[1] == kept + 5


def test_test_part_is_measured_where_it_is_asked_for(trained: RunConfig) -> None:
    store = open_store(trained.run_uri, trained.storage)
    dataset = open_run_dataset(store, trained)
    with pytest.raises(StoreError, match=r"no test part, which evaluation\.split asks for"):
        choose_split(dataset, HeldOut.TEST)
    with_test = replace(dataset, test=dataset.train)
    assert choose_split(with_test, HeldOut.TEST) is dataset.train
    assert choose_split(with_test, HeldOut.VALIDATION) is dataset.validation


def test_damaged_or_missing_export_is_named(trained: RunConfig) -> None:
    folder = find_run_folder(trained) / "export"
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(StoreError, match=r"model\.safetensors is not what its manifest says"):
        evaluate(trained)
    (folder / "manifest.json").unlink()
    with pytest.raises(StoreError, match="no finished export"):
        evaluate(trained)


def test_unigram_loss_is_the_cross_entropy_of_smoothed_frequencies() -> None:
    loss = compute_unigram_loss(np.array([5, 1, 0]), np.array([1, 0, 1]))
    assert loss == pytest.approx(-(math.log(6 / 9) + math.log(1 / 9)) / 2)


def test_bits_per_byte() -> None:
    assert convert_to_bits_per_byte(math.log(16), num_tokens=10, num_bytes=40) == 1.0
