"""Records as conversations: messages, a prompt with its response, a text with its translation.

Below: `records`, `marks`. Above: `fields`.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from llmtrain_api.sources import Fields
from llmtrain_trainer.preparation.document import Document, Rejection
from llmtrain_trainer.preparation.records import MakeDocument, Needed, read_field
from llmtrain_trainer.tokenizer.marks import SPEAKERS, write_conversation

ALIASES = {"human": "user", "gpt": "assistant", "bot": "assistant", "function": "tool"}
"""Names of roles in well-known sets of conversations."""

ROLE_KEYS, WORDS_KEYS = ("role", "from"), ("content", "value")
"""Of a message, as most sets and as ShareGPT's write them."""

ASSISTANT = "assistant"

MESSAGES = "fields.messages"


def choose_conversation_maker(fields: Fields, index: int) -> tuple[MakeDocument, Needed]:
    """Return what makes conversations of records, and the fields that it needs.

    Args:
        fields: which fields hold what.
        index: of the source; its documents carry it.
    """
    if fields.messages is not None:
        return partial(_read_messages, fields.messages, index), {fields.messages: MESSAGES}
    pair = [
        (name, setting)
        for name, setting in (
            (fields.prompt, "fields.prompt"),
            (fields.source, "fields.source"),
            (fields.response, "fields.response"),
            (fields.target, "fields.target"),
        )
        if name is not None
    ]
    return partial(_read_pair, pair, index), dict(pair)


def _read_pair(
    pair: list[tuple[str, str]], index: int, record: Any, place: str
) -> Document | Rejection:
    words = []
    for name, setting in pair:
        text = read_field(record, name, place, setting)
        if isinstance(text, Rejection):
            return text
        if not text.strip():
            return Rejection(
                place, f"field {name!r} is empty", "remove the record, or give it text"
            )
        words.append(text)
    turns = zip(("user", ASSISTANT), words, strict=True)
    return Document(write_conversation(turns), place, index)


def _read_messages(name: str, index: int, record: Any, place: str) -> Document | Rejection:
    if not isinstance(record, dict) or not isinstance(record.get(name), list | str):
        found = read_field(record, name, place, MESSAGES)
        return found if isinstance(found, Rejection) else _refuse(place, name, "is no list")
    messages = record[name]
    if isinstance(messages, str):  # a table's cell
        try:
            messages = json.loads(messages)
        except (ValueError, RecursionError):
            return _refuse(place, name, "is no list of messages in JSON")
    if not isinstance(messages, list):
        return _refuse(place, name, "is no list of messages")
    turns = []
    for number, message in enumerate(messages, start=1):
        turn = _read_turn(message)
        if isinstance(turn, str):
            return _refuse(place, name, f"has a message, number {number}, {turn}")
        turns.append(turn)
    if not any(role == ASSISTANT for role, _ in turns):
        return _refuse(place, name, "has no message of the assistant to learn from")
    return Document(write_conversation(turns), place, index)


def _read_turn(message: Any) -> tuple[str, str] | str:
    """Return the role and the words of a message, or what is wrong with it."""
    if not isinstance(message, dict):
        return "that is no object"
    role = next((message[key] for key in ROLE_KEYS if key in message), None)
    words = next((message[key] for key in WORDS_KEYS if key in message), None)
    if not isinstance(role, str) or ALIASES.get(role, role) not in SPEAKERS:
        return f"whose role is none of {', '.join(SPEAKERS)}"
    if not isinstance(words, str) or not words.strip():
        return "without text in its content"
    try:
        words.encode()
    except UnicodeEncodeError:
        return "with half of a surrogate pair, which is no text"
    return ALIASES.get(role, role), words


def _refuse(place: str, name: str, why: str) -> Rejection:
    return Rejection(
        place,
        f"field {name!r} {why}",
        'write messages as [{"role": "user", "content": "…"}, …]',
    )
