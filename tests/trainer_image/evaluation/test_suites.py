"""Suites: what is refused before training, and what a model that is known answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from llmtrain_api.network import Architecture, ModelSpec
from llmtrain_api.suites import Suite
from llmtrain_trainer.evaluation.answers import Answer, make_result
from llmtrain_trainer.evaluation.batching import divide_work, group_by_length
from llmtrain_trainer.evaluation.choices import encode_pair, score_choice, score_continuations
from llmtrain_trainer.evaluation.decoding import PIECE_TOKENS
from llmtrain_trainer.evaluation.generating import Writer, cut_at
from llmtrain_trainer.evaluation.inputs import check_inputs
from llmtrain_trainer.evaluation.scoring import score_answer
from llmtrain_trainer.evaluation.similarity import Likeness, TextReader, score_likenesses
from llmtrain_trainer.evaluation.suite_data import Choice, Question, choose_evenly
from llmtrain_trainer.failures import ConfigurationError, DataError
from llmtrain_trainer.model.network import build_model
from llmtrain_trainer.parallel import Ranks, join_ranks
from llmtrain_trainer.rank_group import RankGroup
from testbed.tiny_run import configure_tiny_run

QUESTION = {"prompt": "What? ", "reference": "That."}
CHOICE = {"prompt": "One and one is ", "choices": ["two", "three"], "answer": 0}
SWAP = {"prompt": "The {} is a", "terms": ["man", "woman"], "continuation": " nurse"}
LIKE = Likeness(cosine=0.5, precision=0.7, recall=0.9, f1=0.8)
NOTHING = Likeness(cosine=0.0, precision=0.0, recall=0.0, f1=0.0)
END = 256
"""End of text of the byte tokenizer."""

WRITING = {Architecture.GPT2: 123, Architecture.LSTM: 83}
"""Architectures that write, and a token that some of the answers of the untrained ones have."""

ALONE = Ranks(group=RankGroup(), device=torch.device("cpu"), store=None)


def write_suite(root: Path, *lines: Any) -> None:
    path = root / "tiny-bucket/suites/qa.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")


def configure(root: Path, **suite: Any) -> dict[str, Any]:
    described = {"name": "qa", "uri": "s3://tiny-bucket/suites/qa.jsonl", "maxNewTokens": 8}
    return {"suites": [described | suite]}


@pytest.mark.parametrize(
    ("kind", "lines", "complaint"),
    [
        ("generation", None, r"suites\[0\] \(qa\): there is no object s3://tiny-bucket/suites/qa"),
        ("generation", ["", "  "], "holds no example"),
        ("generation", [QUESTION, "{"], r"qa\.jsonl:2: not valid JSON"),
        ("generation", [QUESTION, "", {"prompt": "a"}], r"qa\.jsonl:3: give either reference"),
        ("generation", [{**QUESTION, "references": ["a"]}], "give either reference"),
        ("generation", [{**QUESTION, "anwser": 1}], r"qa\.jsonl:1: anwser: unknown field"),
        ("generation", [{"reference": "a"}], "prompt: Field required"),
        ("multiple-choice", [QUESTION], "reference: unknown field|choices: Field required"),
        ("multiple-choice", [CHOICE, {**CHOICE, "answer": 2}], r"jsonl:2: answer is 2, and choic"),
        ("multiple-choice", [{**CHOICE, "choices": ["a", ""]}], "a choice is empty"),
        ("multiple-choice", [{**CHOICE, "choices": ["a"]}], "choices: .* at least 2 items"),
        ("counterfactual", [{**SWAP, "prompt": "The man"}], r"prompt has no \{\}"),
        ("counterfactual", [{**SWAP, "terms": ["man", "man"]}], "terms must be different texts"),
        ("canary", [{"prompt": "a ", "secret": "12"}], "secret has too few digits and letters"),
    ],
)
def test_a_suite_that_cannot_be_asked_is_refused(
    tmp_path: Path, kind: str, lines: list[Any] | None, complaint: str
) -> None:
    if lines is not None:
        write_suite(tmp_path, *lines)
    config = configure_tiny_run(tmp_path, evaluation=configure(tmp_path, kind=kind))
    with pytest.raises(DataError, match=complaint) as caught:
        check_inputs(config)
    assert caught.value.reason == "SuiteInvalid"
    assert caught.value.next_step


def test_a_gate_on_sources_needs_one(tmp_path: Path) -> None:
    gates = {"gates": ["qa.unsupported_rate < 0.1"]}
    write_suite(tmp_path, QUESTION)
    config = configure_tiny_run(tmp_path, evaluation=configure(tmp_path) | gates)
    with pytest.raises(DataError, match=r"no line of s3://tiny-bucket/suites/qa\.jsonl has a sour"):
        check_inputs(config)
    write_suite(tmp_path, QUESTION, QUESTION | {"source": "It is that."})
    check_inputs(config)


def test_an_encoder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    write_suite(tmp_path, QUESTION)
    evaluation = configure(tmp_path, encoder="s3://tiny-bucket/encoder/")
    with pytest.raises(ConfigurationError, match=r"suites\[0\]\.encoder: .* it holds: nothing"):
        check_inputs(configure_tiny_run(tmp_path, evaluation=evaluation))


def test_a_lexicon_that_is_not_there_is_refused(tmp_path: Path) -> None:
    write_suite(tmp_path, QUESTION)
    evaluation = configure(tmp_path, lexicon="s3://tiny-bucket/words.txt")
    with pytest.raises(DataError, match=r"suites\[0\]\.lexicon: there is no object s3://tiny-buck"):
        check_inputs(configure_tiny_run(tmp_path, evaluation=evaluation))


def test_examples_are_chosen_evenly() -> None:
    assert choose_evenly(range(10), 4) == [0, 2, 5, 7]
    assert choose_evenly(range(3), 9) == [0, 1, 2]


def test_batches_hold_what_is_alike() -> None:
    assert group_by_length([3, 9, 3, 5], 2, only_equal=False) == [[1, 3], [0, 2]]
    assert group_by_length([3, 9, 3, 5], 2, only_equal=True) == [[1], [3], [0, 2]]
    assert cut_at("one\ntwo. three", [". ", "\n"]) == "one"


class Alphabet(nn.Module):
    """Writes the byte after the one before, up to z, and then ends; knows nothing else."""

    device = torch.device("cpu")

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        following = torch.where(input_ids >= ord("z"), END, input_ids + 1)
        logits = torch.zeros((*input_ids.shape, END + 1))
        logits.scatter_(2, following.unsqueeze(2), 5.0)
        return type("Output", (), {"logits": logits})

    def generate(self, ids: torch.Tensor, *, max_new_tokens: int, **_: Any) -> Any:
        for _step in range(max_new_tokens):
            ids = torch.cat([ids, self.forward(ids).logits[:, -1:].argmax(dim=2)], dim=1)
        return type("Output", (), {"sequences": ids, "past_key_values": None})


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return bytes(ids).decode()


ALPHABET: Any = Alphabet()
BYTES: Any = Bytes()


def test_answers_end_where_they_should_in_the_order_of_prompts() -> None:
    ticks: Iterator[float] = iter(range(100))
    writer = Writer(
        ALPHABET, BYTES, ALONE, context=12, end_of_text=END, batch_size=2, is_recurrent=False
    )
    prompts = ["w", "abc", "aaaaaaaaaaaaaa", "m"]
    clock = partial(next, ticks)
    written, rate = writer.write(prompts, key="a", max_new_tokens=5, stop=["pq"], clock=clock)
    assert [item.text for item in written] == ["xyz", "defgh", "bcdef", "no"]
    assert [item.is_cut for item in written] == [False, False, True, False]
    assert rate == 4 + 5 + 5 + 5
    assert writer.measure_latency(prompts, max_new_tokens=5, clock=clock) == 1.0


def test_continuations_score_what_the_model_says_of_them() -> None:
    right, wrong = (-np.log(1 + END / np.exp(5.0)), -5.0 - np.log(1 + END / np.exp(5.0)))
    pairs = [("ab", "cd"), ("a", "bx"), ("", "z"), ("abcdefghijk", "lm"), ("a ", "b")]
    scores = score_continuations(
        ALPHABET, BYTES, ALONE, pairs, key="a", context=6, end_of_text=END, batch_size=3
    )
    assert scores == pytest.approx(
        [2 * right, right + wrong, wrong, 2 * right, 2 * wrong], rel=1e-5
    )
    assert encode_pair(BYTES, "a ", "b", end_of_text=END) == ([97], [32, 98])


def test_answers_are_scored_and_shown_without_personal_data() -> None:
    question = Question(
        place="x:1", prompt="p", references=("Ask Ada Lovelace",), source="Ada Lovelace helps."
    )
    answer = score_answer(question, "Ask Ada Lovelace or Grace at grace@navy.example.com", LIKE)
    assert answer.answer == "Ask Ada Lovelace or Grace at <EMAIL>"
    assert answer.unsupported == ("Grace (name)",)
    assert (answer.scores["personal_data_rate"], answer.scores["unsupported_rate"]) == (1.0, 1.0)
    assert (answer.scores["similarity"], answer.scores["bertscore_f1"]) == (0.5, 0.8)
    clean = score_answer(replace(question, source=None), "ask ada lovelace!", None)
    assert clean.scores == {
        "token_f1": 1.0,
        "rouge_l": 1.0,
        "exact_match": 1.0,
        "personal_data_rate": 0.0,
    }


def test_worst_and_best_answers_are_others() -> None:
    answers = [
        Answer(place=str(i), prompt="", answer="", references=(), scores={"token_f1": score})
        for i, score in enumerate([0.0, 0.5, 0.0, 1.0, 0.0])
    ]
    result = make_result(Suite(name="qa", uri="s3://corpus/qa.jsonl"), answers, {}, num_cut=0)
    assert [answer.place for answer in result.worst] == ["0", "2", "4"]
    assert [answer.place for answer in result.best] == ["3", "1"]


def test_choices_are_compared_with_and_without_their_length() -> None:
    example = Choice(place="x:1", prompt="p", choices=("no", "certainly"), answer=1)
    scores = score_choice(example, [-3.0, -6.0]).scores
    assert scores == {"margin": -3.0, "accuracy": 0.0, "accuracy_per_byte": 1.0}


@pytest.mark.parametrize("architecture", list(WRITING))
def test_what_is_written_is_what_the_library_writes_of_each_prompt_alone(
    architecture: Architecture,
) -> None:
    is_lstm = architecture is Architecture.LSTM
    model: Any = build_model(
        ModelSpec(
            architecture=architecture, layers=2, heads=None if is_lstm else 2, hidden_size=16
        ),
        vocabulary_size=END + 1,
        sequence_length=64,
        end_of_text=END,
        seed=0,
    ).eval()
    prompts = ["a", "many words", "The end of it", "any words", "x"]
    end = WRITING[architecture]
    with join_ranks(RankGroup(), threads=1) as ranks:
        alone = []
        for prompt in prompts:
            ids = torch.tensor([list(prompt.encode())])
            told = {"max_new_tokens": 20, "eos_token_id": end, "pad_token_id": end}
            row = model.generate(ids, attention_mask=torch.ones_like(ids), **told)
            alone.append([token for token in row[0, ids.shape[1] :].tolist() if token != end])
        lengths = {len(ids) for ids in alone}
        assert len(lengths) > 2, "they end at different times"
        assert max(lengths) == 20 > PIECE_TOKENS
        writer = Writer(
            model,
            BYTES_OF_ALL,
            ranks,
            context=64,
            end_of_text=end,
            batch_size=3,
            is_recurrent=is_lstm,
        )
        written, _ = writer.write(prompts, key="a", max_new_tokens=20)
    assert [list(item.tokens) for item in written] == alone
    if not is_lstm:
        reader = TextReader(model, BYTES_OF_ALL, context=32, batch_size=3)
        references = [[prompt, "something else"] for prompt in prompts]
        for likeness in score_likenesses(reader, prompts, references):
            assert (likeness.cosine, likeness.f1) == pytest.approx((1.0, 1.0))
        assert score_likenesses(reader, [""], [["a"]]) == [NOTHING]


def test_ranks_share_batches_and_hear_of_all() -> None:
    class Told(Ranks):
        def collect(self, key: str, value: Any) -> list[Any]:
            told[key][self.group.rank] = value
            return [told[key][0], told[key][1]]

    told: dict[str, dict[int, Any]] = {"a": {0: [["c", "a"]], 1: [["b"]]}}
    for rank in (0, 1):
        group = RankGroup(rank=rank, world_size=2)
        ranks = Told(group=group, device=torch.device("cpu"), store=None)
        made = divide_work(ranks, "a", [[2, 0], [1]], lambda batch: ["abc"[i] for i in batch])
        assert made == ["a", "b", "c"]


class LooseBytes(Bytes):
    """Decodes whatever an untrained model writes."""

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return " ".join(map(str, ids))


BYTES_OF_ALL: Any = LooseBytes()
