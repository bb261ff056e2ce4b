"""Structure within texts: what is written is read back, and no text can forge it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtrain_api.recipe import Clean
from llmtrain_trainer.preparation.normalize import normalize_text
from llmtrain_trainer.tokenizer.marks import (
    MIDDLE,
    PREFIX,
    SUFFIX,
    TURN,
    Role,
    Segment,
    count_bytes,
    divide_text,
    remove_marks,
    show_text,
    write_conversation,
)

TURNS = [("system", "Be brief."), ("user", " Who?\n\nWhere? "), ("assistant", "Nobody.")]


def list_words(text: str) -> list[tuple[Role, str]]:
    return [
        (segment.role, segment.text)
        for segment in divide_text(text)
        if segment.role is not Role.TEMPLATE and not segment.is_special
    ]


def test_plain_text_is_one_segment() -> None:
    assert divide_text("a text") == [Segment("a text", Role.TEXT)]


def test_turns_are_read_back() -> None:
    text = write_conversation(TURNS)
    expected = [
        (Role.SYSTEM, "Be brief."),
        (Role.USER, "Who?\n\nWhere?"),
        (Role.ASSISTANT, "Nobody."),
    ]
    assert list_words(text) == expected
    assert show_text(text).startswith("system\nBe brief.\nuser\n")
    assert count_bytes("schön") == 6


def test_whoever_speaks_ends_the_turn() -> None:
    *_, start, name, words, end, line = divide_text(write_conversation(TURNS))
    assert (start.text, name.text, line.text) == ("<|im_start|>", "assistant\n", "\n")
    assert (end.text, end.role, end.is_special) == ("<|im_end|>", Role.ASSISTANT, True)
    assert words.role is Role.ASSISTANT


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text()), min_size=1))
def test_any_words_keep_their_turn(turns: list[tuple[str, str]]) -> None:
    text = write_conversation(turns)
    expected = [(role, remove_marks(words).strip()) for role, words in turns]
    assert [(role.name.lower(), words) for role, words in list_words(text)] == expected


@pytest.mark.parametrize("collapse", [False, True])
def test_cleaning_leaves_turns_where_they_are(collapse: bool) -> None:
    text = write_conversation([("user", "a  b\r\n\x00c"), ("assistant", "schÃ¶n")])
    clean = normalize_text(
        Clean(collapse_whitespace=collapse), text, lambda rule, measure="", times=1: None
    )
    words = "a b\nc" if collapse else "a  b\nc"
    assert list_words(clean) == [(Role.USER, words), (Role.ASSISTANT, "schön")]


def test_parts_that_were_moved_are_behind_special_tokens() -> None:
    segments = divide_text(f"{PREFIX}begin{SUFFIX}end{MIDDLE}middle")
    assert [segment.text for segment in segments] == [
        "<|fim_prefix|>", "begin", "<|fim_suffix|>", "end", "<|fim_middle|>", "middle",
    ]  # fmt: skip
    assert [segment.is_special for segment in segments] == [True, False] * 3


def test_marks_are_taken_out_of_what_is_read() -> None:
    assert remove_marks(f"a{TURN}b{MIDDLE}") == "ab"
