"""Which documents are left out, and under which rule."""

from __future__ import annotations

from typing import Any

import pytest

from llmtrain_api.recipe import Clean
from llmtrain_trainer.preparation.selection import identify_language, select_text
from llmtrain_trainer.preparation.tally import Tally

ENGLISH = "The quick brown fox jumps over the lazy dog, and nobody seems to mind it at all. "
GERMAN = "Der schnelle braune Fuchs springt über den faulen Hund, und niemanden stört es. "


def select(text: str, **fields: Any) -> str | None:
    """Return the rule that left a text out, or None."""
    tally = Tally("select")

    def count(rule: str, measure: str = "", *, times: int = 1) -> None:
        tally.count_rule("file:1", rule, measure, times=times)
        assert not text.strip() or text.strip() not in measure

    kept = select_text(Clean.model_validate(fields), text, count)
    assert kept in (text, None)
    assert sum(tally.counts.values()) == (kept is None)
    return next(iter(tally.counts), None)


@pytest.mark.parametrize(
    ("text", "fields", "rule"),
    [
        ("x", {}, None),
        (" \n\t ", {}, "missing value"),
        (" " * 500, {}, "missing value"),
        ("NaN", {}, "missing value"),
        (" n/a\n", {}, "missing value"),
        ("[deleted]", {}, "missing value"),
        ("none of it", {}, None),
        ("short", {"minCharacters": 6}, "too short"),
        ("longer", {"maxCharacters": 5}, "too long"),
        (ENGLISH, {"languages": ["en"]}, None),
        (GERMAN, {"languages": ["en", "fr"]}, "language"),
        (GERMAN, {"languages": ["en", "de"]}, None),
        ("x = 1", {"languages": ["en"]}, "language"),
    ],
)
def test_rule_that_leaves_a_text_out(text: str, fields: dict[str, Any], rule: str | None) -> None:
    assert select(text, **fields) == rule


def test_language_is_that_of_the_middle() -> None:
    assert identify_language(GERMAN * 2 + ENGLISH * 30 + GERMAN * 2)[0] == "en"
