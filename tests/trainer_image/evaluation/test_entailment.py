"""What a source says of sentences, by a real model of inference, if a tiny one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmtrain_api.run import StorageConfig
from llmtrain_trainer.evaluation.asking import Answered
from llmtrain_trainer.evaluation.entailment import EntailmentJudge, load_judge, split_sentences
from llmtrain_trainer.evaluation.generating import Written
from llmtrain_trainer.evaluation.inputs import check_inputs
from llmtrain_trainer.evaluation.scoring import add_judgement, score_answer
from llmtrain_trainer.evaluation.suite_data import Question
from llmtrain_trainer.evaluation.suites import Judging
from llmtrain_trainer.evaluation.text_models import Relation, find_relations
from llmtrain_trainer.failures import ConfigurationError, DataError
from testbed.tiny_judge import CONTEXT, save_judge
from testbed.tiny_run import configure_tiny_run

URI = "s3://tiny-bucket/judge/"
FIELD = r"spec\.evaluation\.suites\[0\]\.entailmentModel"
QUESTION = {"prompt": "What? ", "reference": "That.", "source": "It is that."}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    save_judge(root / "tiny-bucket/judge")
    return root


@pytest.fixture(scope="module")
def judge(store: Path) -> EntailmentJudge:
    storage = StorageConfig(uri="s3://tiny-bucket", local_root=str(store))
    return load_judge(URI, storage, field="", device=torch.device("cpu"), batch_size=2)


def test_sentences_are_judged_by_what_their_source_says(judge: EntailmentJudge) -> None:
    told, silent = "so it is green then", "so it is then"
    far = " ".join(["so and then"] * CONTEXT + ["green"] + ["and so"] * CONTEXT)
    answers = ["It is green. it is small", "it is red", "it is blue", "", "it is green"]
    sources = [told, told, far, told, None]
    # The judge knows small letters only, as its words.
    judged = judge.judge_answers([answer.lower() for answer in answers], sources)
    assert judged[3:] == [None, None]
    assert [None if j is None else j.relations for j in judged[1:3]] == [
        (Relation.CONTRADICTED,),
        (Relation.CONTRADICTED,),
    ]
    assert judge.judge([(told, "it is green"), (told, "it is small"), (silent, "it is red")]) == [
        Relation.ENTAILED,
        Relation.NOT_SAID,
        Relation.NOT_SAID,
    ]
    assert judge.judge([(far, "it is green ."), (told, "so " * 100)])[0] is Relation.ENTAILED


def test_an_answer_has_the_shares_of_its_sentences(judge: EntailmentJudge) -> None:
    question = Question(place="x:1", prompt="p", references=("r",), source="it is red")
    text = "it is red .\nit is blue .\nit is small .\nit is red ."
    (judgement,) = judge.judge_answers([text], [question.source])
    assert judgement is not None
    answer = add_judgement(score_answer(question, text, None), judgement, can_contradict=True)
    assert answer.scores["entailed_share"] == 0.5
    assert answer.scores["contradicted_share"] == 0.25
    assert answer.unsupported == ("“it is blue .” (contradicted)", "“it is small .” (not said)")
    without = add_judgement(score_answer(question, text, None), judgement, can_contradict=False)
    assert "contradicted_share" not in without.scores


def test_the_answers_to_a_suite_are_held_against_their_sources(store: Path) -> None:
    config = configure(store, lines=[QUESTION], gates=[], encoder=URI)
    (suite,) = config.evaluation.suites
    question = Question(place="x:1", prompt="p", references=("it is red",), source="so it is red")
    texts = ["it is red", "it is blue"]
    asked = Answered(
        questions=[question, question],
        written=[Written(text=text, tokens=(), is_cut=False) for text in texts],
        drawn=[],
        tokens_per_second=1.0,
        latency_seconds=None,
    )
    model: Any = torch.nn.Linear(1, 1)
    model.device = torch.device("cpu")
    unused: Any = None  # the encoder reads, and nothing is looked for in training text
    judging = Judging(config, model, unused, end_of_text=0, train=unused)
    metrics = judging.judge(suite, 0, asked).metrics
    assert (metrics["entailed_share"], metrics["contradicted_share"]) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Dr. Ada B. Lovelace wrote it. Did she? “Yes.” 3 knew.", 4),
        ("It costs 3.5 euros, e.g. here. and so on", 1),
        ("first line\n\n- second line\n...", 2),
        ("", 0),
    ],
)
def test_sentences_end_where_they_end(text: str, sentences: int) -> None:
    found = split_sentences(text)
    assert len(found) == sentences
    assert all(sentence in text for sentence in found)


@pytest.mark.parametrize(
    ("labels", "meaning"),
    [
        (
            {"0": "CONTRADICTION", "1": "neutral", "2": "Entailment"},
            "contradicted not_said entailed",
        ),
        ({"0": "entailment", "1": "not_entailment"}, "entailed not_said"),
        ({"0": "LABEL_0", "1": "LABEL_1"}, "not_said not_said"),
    ],
)
def test_labels_mean_what_they_begin_with(labels: dict[str, str], meaning: str) -> None:
    assert [found.name.lower() for found in find_relations(labels).values()] == meaning.split()


def configure(root: Path, *, lines: list[dict[str, str]], gates: list[str], **further: str) -> Any:
    path = root / "tiny-bucket/qa.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    suite = {"name": "qa", "uri": "s3://tiny-bucket/qa.jsonl", "maxNewTokens": 8}
    suites = [suite | {"entailmentModel": URI, **further}]
    return configure_tiny_run(root, evaluation={"suites": suites, "gates": gates})


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (None, r"has no config\.json beside a file of tensors .*it holds: model\.safetensors"),
        ([], r"is no JSON object"),
        ({"architectures": ["BertModel"]}, "is a BertModel, and no …ForSequenceClassification"),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, "they are: LABEL_0, LABEL_1"),
        ({"id2label": None}, "they are: unnamed"),
        (
            {"id2label": {"0": "entailment", "1": "other"}},
            "no label of .* begins with “contradict”",
        ),
    ],
)
def test_a_model_that_cannot_judge_is_refused_before_training(
    tmp_path: Path, settings: Any, complaint: str
) -> None:
    folder = tmp_path / "tiny-bucket/judge"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"not read before training")
    if settings is not None:
        whole = {"architectures": ["BertForSequenceClassification"]}
        (folder / "config.json").write_text(json.dumps(settings and whole | settings))
    config = configure(tmp_path, lines=[QUESTION], gates=["qa.contradicted_share < 0.1"])
    with pytest.raises(ConfigurationError, match=f"{FIELD}: .*{complaint}") as caught:
        check_inputs(config)
    assert caught.value.reason == "EntailmentModelInvalid"
    assert caught.value.next_step


def test_a_judge_without_a_source_is_refused(tmp_path: Path, store: Path) -> None:
    line = {"prompt": "What? ", "reference": "That."}
    with pytest.raises(
        DataError, match=r"entailmentModel is given, and no line of s3://.* has a so"
    ):
        check_inputs(configure(store, lines=[line], gates=[]))
    check_inputs(configure(store, lines=[line, QUESTION], gates=["qa.contradicted_share < 0.1"]))


def test_a_head_that_was_never_trained_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-bucket/judge"
    save_judge(folder)
    tensors = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if "classifier" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    storage = StorageConfig(uri="s3://tiny-bucket", local_root=str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"lack classifier\.bias, classifier\.weight"):
        load_judge(URI, storage, field="f", device=torch.device("cpu"), batch_size=2)
