"""Tasks of lm-evaluation-harness: what is refused before training, and what the harness says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from llmtrain_api.network import Architecture, ModelSpec
from llmtrain_api.suites import Suite
from llmtrain_trainer.evaluation.choices import score_choice, score_continuations
from llmtrain_trainer.evaluation.harness import run_task
from llmtrain_trainer.evaluation.harness_task import read_task
from llmtrain_trainer.evaluation.inputs import check_inputs
from llmtrain_trainer.evaluation.suite_data import Choice
from llmtrain_trainer.failures import ConfigurationError, DataError
from llmtrain_trainer.model.network import build_model
from llmtrain_trainer.parallel import Ranks
from llmtrain_trainer.rank_group import RankGroup
from testbed.tiny_run import configure_tiny_run

URI = "s3://tiny-bucket/tasks/tiny.yaml"
CONTEXT = 32
TASK = {
    "task": "tiny",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "tiny.jsonl"}},
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{q}}",
    "doc_to_target": "answer",
    "doc_to_choice": "choices",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
WORDS = [f"w{number}" for number in range(20)]
QUESTIONS: list[dict[str, Any]] = [
    {"q": f"w{i} w{i + 1}", "choices": [f"w{i + 2}", f"w{i + 3} w1"], "answer": i % 2}
    for i in range(12)
]


def write_task(root: Path, settings: Any, lines: list[Any] | None = None) -> None:
    folder = root / "tiny-bucket/tasks"
    folder.mkdir(parents=True, exist_ok=True)
    text = settings if isinstance(settings, str) else yaml.safe_dump(settings)
    (folder / "tiny.yaml").write_text(text, encoding="utf-8")
    if lines is not None:
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (folder / "tiny.jsonl").write_text("".join(text + "\n" for text in texts))


def configure(root: Path, *gates: str) -> Any:
    suite = {"name": "arc", "kind": "harness", "uri": URI, "maxExamples": 10}
    return configure_tiny_run(root, evaluation={"suites": [suite], "gates": list(gates)})


@pytest.mark.parametrize(
    ("settings", "lines", "complaint", "reason"),
    [
        (None, None, r"tiny\.yaml: there is no such object", "SuiteInvalid"),
        ("doc_to_text: !function utils.go\n", None, "line 1: .*!function.*never", "RemoteCode"),
        ("a: !!python/name:os.system\n", None, "line 1: .*python/name.*never run", "RemoteCode"),
        ("a: [", None, "no YAML", "SuiteInvalid"),
        ({"include": "../base.yaml"}, None, r"'\.\./base\.yaml' is no file beside", "SuiteInv"),
        ({"include": "tiny.yaml"}, None, "includes itself", "SuiteInvalid"),
        (TASK | {"use_prompt": "x"}, None, "use_prompt is not allowed", "SuiteInvalid"),
        (TASK | {"task": ["a", "b"]}, None, "task must be the name of one", "SuiteInvalid"),
        (TASK | {"output_type": "chat"}, None, "output_type 'chat' is unknown", "SuiteInvalid"),
        (TASK | {"dataset_path": "ai2_arc"}, None, "its data are 'ai2_arc', and", "SuiteInvalid"),
        (TASK, None, r"tiny\.jsonl: there is no such object", "SuiteInvalid"),
        (TASK, [], r"tiny\.jsonl: holds no example", "SuiteInvalid"),
        (TASK, ["{}", "[1]"], r"tiny\.jsonl:2: no JSON object", "SuiteInvalid"),
        (TASK | {"test_split": "dev"}, QUESTIONS, "test_split: no part 'dev'", "SuiteInvalid"),
        (TASK | {"test_split": None}, QUESTIONS, "test_split or valid.* missing", "SuiteInvalid"),
        (TASK | {"metric_list": [{"metric": "acurracy"}]}, QUESTIONS, "'acurracy' c", "SuiteInv"),
        (TASK | {"output_type": "generate_until"}, QUESTIONS, "answers of 256 tokens", "SuiteInv"),
        (TASK, QUESTIONS, r"a gate names arc\.acc_norm, and .* measures acc$", "SuiteInvalid"),
    ],
)
def test_a_task_that_cannot_be_run_is_refused(
    tmp_path: Path, settings: Any, lines: list[Any] | None, complaint: str, reason: str
) -> None:
    if settings is not None:
        write_task(tmp_path, settings, lines)
    with pytest.raises(DataError, match=complaint) as caught:
        check_inputs(configure(tmp_path, "arc.acc_norm > 0.5"))
    assert "spec.evaluation.suites[0] (arc)" in caught.value.message
    assert caught.value.reason.startswith(reason)
    assert caught.value.next_step


def test_an_image_without_the_harness_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_task(tmp_path, TASK, QUESTIONS)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigurationError, match=r"suites\[0\]\.kind: kind: harness needs"
    ) as caught:
        check_inputs(configure(tmp_path))
    assert caught.value.reason == "HarnessMissing"


def make_model(
    architecture: Architecture = Architecture.GPT2,
) -> tuple[Any, PreTrainedTokenizerFast]:
    ids = {word: number for number, word in enumerate([*WORDS, "<end>"])}
    words = Tokenizer(WordLevel(ids, unk_token="<end>"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")
    model = build_model(
        ModelSpec(
            architecture=architecture,
            layers=2,
            heads=2 if architecture is Architecture.GPT2 else None,
            hidden_size=16,
        ),
        vocabulary_size=len(ids),
        sequence_length=CONTEXT,
        end_of_text=ids["<end>"],
        seed=0,
    )
    return model.eval(), tokenizer


def run(
    root: Path,
    settings: dict[str, Any],
    architecture: Architecture = Architecture.GPT2,
    **suite: Any,
) -> Any:
    write_task(root, settings, QUESTIONS)
    config = configure(root)
    described = Suite.model_validate({"name": "arc", "kind": "harness", "uri": URI} | suite)
    task = read_task(described, 0, config.storage, context=CONTEXT)
    model, tokenizer = make_model(architecture)
    return run_task(
        described,
        task,
        model,
        tokenizer,
        context=CONTEXT,
        batch_size=4,
        end_of_text=tokenizer.eos_token_id,
        seed=0,
    )


def test_the_harness_measures_what_our_own_suite_does(tmp_path: Path) -> None:
    result = run(tmp_path, TASK, maxExamples=10)
    asked = [QUESTIONS[number * 12 // 10] for number in range(10)]
    model, tokenizer = make_model()
    examples = [
        Choice(place="", prompt=q["q"] + " ", choices=tuple(q["choices"]), answer=q["answer"])
        for q in asked
    ]
    pairs = [(example.prompt, choice) for example in examples for choice in example.choices]
    scores = score_continuations(
        model,
        tokenizer,
        Ranks(group=RankGroup(), device=torch.device("cpu"), store=None),
        pairs,
        key="test",
        context=CONTEXT,
        end_of_text=tokenizer.eos_token_id,
        batch_size=3,
    )
    right = [
        score_choice(example, scores[2 * i : 2 * i + 2]).scores["accuracy"]
        for i, example in enumerate(examples)
    ]
    assert result.num_examples == 10
    assert result.metrics == {"acc": sum(right) / 10}
    assert 0.0 < result.metrics["acc"] < 1.0


def test_templates_see_their_data_and_nothing_else(tmp_path: Path) -> None:
    reach = "{{ ''.__class__.__mro__ }}"
    with pytest.raises(DataError, match="SecurityError") as caught:
        run(tmp_path, TASK | {"doc_to_text": reach})
    assert caught.value.reason == "SuiteInvalid"


@pytest.mark.parametrize("architecture", [Architecture.GPT2, Architecture.LSTM])
def test_answers_are_written_and_compared(tmp_path: Path, architecture: Architecture) -> None:
    settings = TASK | {
        "output_type": "generate_until",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"max_gen_toks": 3, "until": ["w0"], "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    del settings["doc_to_choice"]
    result = run(tmp_path, settings, architecture, maxExamples=3)
    assert list(result.metrics) == ["exact_match"]
