"""Texts with structure: turns of a conversation, and parts of a text that were rearranged.

Below: nothing. Above: `fields` writes conversations, `augment` rearranges, `tokenization` makes
special tokens of the marks.

What is cleaned, compared and spooled is one text. So its structure is in it: a turn begins with a
mark and a line that names its role. Marks are characters that no text has: private ones of the last
plane of Unicode, which are taken out of everything that is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

TURN, PREFIX, SUFFIX, MIDDLE = (chr(0x10FFF0 + number) for number in range(4))
MARKS = re.compile(f"[{TURN}-{MIDDLE}]")

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
PREFIX_TOKEN, SUFFIX_TOKEN, MIDDLE_TOKEN = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"

CHAT_TOKENS = (TURN_START, TURN_END)
INFILL_TOKENS = (PREFIX_TOKEN, SUFFIX_TOKEN, MIDDLE_TOKEN)
"""Names as ChatML and StarCoder have them, which other programs know."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""What `divide_text` makes of a conversation, for `transformers`."""


class Role(IntEnum):
    """Whose words a token is, as it is stored beside the tokens."""

    PADDING = 0
    TEMPLATE = 1
    """Special tokens and names of roles: nobody's words."""

    TEXT = 2
    """Of a document that is no conversation."""

    SYSTEM = 3
    USER = 4
    ASSISTANT = 5
    TOOL = 6


SPEAKERS = {
    "system": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.TOOL,
}
"""Roles of turns, by name."""

INFILL = {PREFIX: PREFIX_TOKEN, SUFFIX: SUFFIX_TOKEN, MIDDLE: MIDDLE_TOKEN}


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens of one role."""

    text: str
    role: Role

    is_special: bool = False
    """Whether `text` is the name of one special token."""


def remove_marks(text: str) -> str:
    """Return a text that was read without characters that would be taken for marks."""
    return MARKS.sub("", text) if MARKS.search(text) else text


def write_conversation(turns: Iterable[tuple[str, str]]) -> str:
    """Return turns, each of a role and its words, as one text."""
    return "".join(f"{TURN}{role}\n{remove_marks(words).strip()}\n" for role, words in turns)


def divide_text(text: str) -> list[Segment]:
    """Return the segments of a text; a plain one is a segment of its own."""
    if not MARKS.search(text):
        return [Segment(text, Role.TEXT)]
    if text.startswith(TURN):
        return [segment for turn in text.split(TURN)[1:] for segment in _divide_turn(turn)]
    segments = []
    places = [match.start() for match in MARKS.finditer(text)]
    for start, end in zip(places, [*places[1:], len(text)], strict=True):
        segments.append(Segment(INFILL[text[start]], Role.TEMPLATE, is_special=True))
        segments.append(Segment(text[start + 1 : end], Role.TEXT))
    return segments


def show_text(text: str) -> str:
    """Return a text as people read it: turns begin with the name of their role."""
    return MARKS.sub("", text) if MARKS.search(text) else text


def count_bytes(text: str) -> int:
    """Return the bytes of a text in UTF-8, without marks."""
    return len(show_text(text).encode())


def _divide_turn(turn: str) -> Iterator[Segment]:
    name, _, words = turn.partition("\n")
    role = SPEAKERS.get(name.strip(), Role.TEXT)
    yield Segment(TURN_START, Role.TEMPLATE, is_special=True)
    yield Segment(f"{name}\n", Role.TEMPLATE)
    yield Segment(words.strip(), role)
    # Whoever speaks ends the turn, so that a model learns to end its own.
    yield Segment(TURN_END, role, is_special=True)
    yield Segment("\n", Role.TEMPLATE)
