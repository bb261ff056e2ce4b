"""Text in its normal form, and that making it so twice changes nothing."""

from __future__ import annotations

from pydoc_data.topics import topics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtrain_api.recipe import Clean
from llmtrain_trainer.preparation.normalize import normalize_text
from llmtrain_trainer.preparation.tally import Tally


def normalize(text: str, **fields: Any) -> tuple[str, dict[str, int]]:
    """Return the normal form of a text, and how often each rule applied."""
    tally = Tally("normalize")
    clean = Clean.model_validate(fields)

    def count(rule: str, measure: str = "", *, times: int = 1) -> None:
        tally.count_rule("file:1", rule, measure, times=times)

    return normalize_text(clean, text, count), tally.counts


@pytest.mark.parametrize(
    ("text", "normal", "rule"),
    [
        ("schÃ¶n\nschön", "schön\nschön", "encoding repaired"),
        ("â€œquotesâ€\x9d", "“quotes”", "encoding repaired"),
        ("a\u0308", "ä", "written in NFC"),
        ("a\r\nb\rc\u2028d\u2029e", "a\nb\nc\nd\n\ne", "control characters removed"),
        ("\ufeffa\x00b\x1b[0m\tc\x0c", "ab[0m\tc", "control characters removed"),
    ],
)
def test_defaults(text: str, normal: str, rule: str) -> None:
    assert normalize(text) == (normal, {rule: 1})


@pytest.mark.parametrize(
    ("fields", "text", "normal"),
    [
        ({"unicode": "nfkc"}, "ﬁne Ａ²", "fine A2"),
        ({"unicode": "keep"}, "a\u0308", "a\u0308"),
        ({"repairEncoding": False}, "schÃ¶n", "schÃ¶n"),
        ({"removeControlCharacters": False}, "a\r\nb\x00", "a\r\nb\x00"),
        ({"collapseWhitespace": True}, "  a \t b\u00a0c  \n\n\n\n d ", "a b c\n\n d"),
    ],
)
def test_choices(fields: dict[str, Any], text: str, normal: str) -> None:
    assert normalize(text, **fields)[0] == normal


@pytest.mark.parametrize(
    "text", [*list(topics.values())[:5], "Größe, naïve, 日本語, 🙂", "x  = 1  \n"]
)
def test_good_text_stays_as_it_is(text: str) -> None:
    assert normalize(text) == (text, {})


@given(text=st.text(max_size=60), collapse=st.booleans())
def test_the_normal_form_of_a_normal_form_is_itself(text: str, collapse: bool) -> None:
    once, _ = normalize(text, collapseWhitespace=collapse, repairEncoding=False)
    assert normalize(once, collapseWhitespace=collapse, repairEncoding=False) == (once, {})
