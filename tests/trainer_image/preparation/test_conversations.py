"""Records as conversations, and what is wrong with those that are none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmtrain_api.sources import Source
from llmtrain_trainer.dataset.facts import Facts
from llmtrain_trainer.preparation.document import Document, Rejection
from llmtrain_trainer.preparation.fields import choose_maker
from llmtrain_trainer.tokenizer.marks import TURN, show_text

ANSWER = {"role": "assistant", "content": "Hello"}


def make(record: Any, **fields: str) -> Document | Rejection:
    source = Source.model_validate({"uri": "s3://bucket/a.jsonl", "fields": fields})
    maker, _ = choose_maker(source, 0, "data.sources[0]")
    return maker(record, "a.jsonl:1")


def show(document: Document | Rejection) -> str:
    assert isinstance(document, Document), document
    return show_text(document.text)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "Hi"}, ANSWER],
        [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
        json.dumps([{"role": "user", "content": "Hi"}, ANSWER]),
        [{"role": "user", "content": f"H{TURN}i "}, ANSWER],
    ],
)
def test_messages_become_turns(messages: Any) -> None:
    document = make({"chat": messages}, messages="chat")
    assert show(document) == "user\nHi\nassistant\nHello\n"


@pytest.mark.parametrize("names", [("prompt", "response"), ("source", "target")])
def test_pairs_become_two_turns(names: tuple[str, str]) -> None:
    document = make({"q": "Hi", "a": "Hello"}, **dict(zip(names, ("q", "a"), strict=True)))
    assert show(document) == "user\nHi\nassistant\nHello\n"


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({}, "no field 'chat'; the record has none"),
        ([], "not a JSON object"),
        ({"chat": 3}, "field 'chat' is int, not text"),
        ({"chat": "hello"}, "field 'chat' is no list of messages in JSON"),
        ({"chat": '{"role": "user"}'}, "field 'chat' is no list of messages"),
        ({"chat": ["hello"]}, "field 'chat' has a message, number 1, that is no object"),
        (
            {"chat": [ANSWER, {"role": "boss", "content": "x"}]},
            "field 'chat' has a message, number 2, whose role is none of"
            " system, user, assistant, tool",
        ),
        (
            {"chat": [{"role": "user", "content": " "}]},
            "field 'chat' has a message, number 1, without text in its content",
        ),
        (
            {"chat": [{"role": "user", "content": "\ud800"}]},
            "field 'chat' has a message, number 1, with half of a surrogate pair, which is no text",
        ),
        (
            {"chat": [{"role": "user", "content": "Hi"}]},
            "field 'chat' has no message of the assistant to learn from",
        ),
    ],
)
def test_what_is_no_conversation_is_explained(record: Any, why: str) -> None:
    found = make(record, messages="chat")
    assert isinstance(found, Rejection)
    assert found.why == why


def test_empty_half_of_a_pair_is_named() -> None:
    found = make({"q": "Hi", "a": " "}, prompt="q", response="a")
    assert isinstance(found, Rejection)
    assert found.why == "field 'a' is empty"


def test_facts_are_kept_beside_the_text() -> None:
    record = {"text": "Guten Tag", "topic": 3, "lang": "de", "name": "x-1"}
    document = make(record, label="topic", language="lang", id="name")
    assert isinstance(document, Document)
    assert document.text == "Guten Tag"
    assert document.facts == Facts(label="3", language="de", id="x-1")


def test_missing_fact_is_named() -> None:
    found = make({"text": "Guten Tag"}, label="topic")
    assert isinstance(found, Rejection)
    assert found.why == "no field 'topic'; the record has text"
    assert found.next_step == "add it, or name another field in data.sources[].fields.label"
