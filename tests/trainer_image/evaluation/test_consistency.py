"""Facts of an answer that its source does not have."""

from __future__ import annotations

from decimal import Decimal

import pytest

from llmtrain_trainer.evaluation.consistency import (
    find_unsupported,
    measure_agreement,
    measure_coverage,
)
from llmtrain_trainer.evaluation.facts import extract_facts
from llmtrain_trainer.evaluation.text_metrics import score_token_f1

SOURCE = (
    "The Meridian Institute was founded by Jane Q. Austen and Dr. Carl von Weiss on 12 March 2020 "
    "in New York. It has 1,234 members, three offices and a budget of $3,124,000. The United "
    "Nations praised it in 1999; its share fell to 7.95 %."
)


@pytest.mark.parametrize(
    ("answer", "unsupported"),
    [
        ("Jane Austen founded the Meridian Institute in New York.", []),
        ("It was founded in March 2020 by Weiss, on the 12th of March.", []),
        ("Founded 2020-03-12 by Jane Q. Austen's friend.", []),
        ("It has 1234 members, 3 offices, and 3.1 million dollars.", []),
        ("The UN praised it. Its share is 8.0 %.", []),
        ("Ask Jane Austen. Yesterday New York praised it.", []),
        ("Scientists praised it. However, I did not.", []),
        ("On March 13th, 2020 it opened.", ["March 13th, 2020"]),
        ("It opened on 12 March 2021 in Boston.", ["12 March 2021", "Boston"]),
        ("It has 1,235 members and four offices.", ["1,235", "four"]),
        ("Its budget is 3.2 million, or 3 million.", ["3.2 million", "3 million"]),
        ("Berlin", ["Berlin"]),
        ("Emma Woodhouse founded it.", ["Emma Woodhouse"]),
        # What cannot be told: a first word may have its capital by its place.
        ("Berlin praised it for that.", []),
        ("Carl von Weiss founded New York in 1999, not Jane Austen.", []),
        ("", []),
    ],
)
def test_unsupported_facts_are_found(answer: str, unsupported: list[str]) -> None:
    assert [fact.text for fact in find_unsupported(answer, SOURCE)] == unsupported


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234.5", "1234.5"),
        ("1'234'567", "1234567"),
        ("3,5", "3.5"),
        ("1.234.567", "1234.567"),
        ("twenty-one", "21"),
        ("a hundred", "100"),
        ("2.5 billion", "2500000000"),
        ("1980s", "1980"),
    ],
)
def test_numbers_are_read(text: str, value: str) -> None:
    (number,) = extract_facts(f"it was {text} then").numbers
    assert number.value == Decimal(value)


def test_coverage_is_the_share_of_words_that_the_source_has() -> None:
    assert measure_coverage("the Institute has many members", SOURCE) == pytest.approx(4 / 5)
    assert measure_coverage("12 - 34", SOURCE) is None


def test_agreement_is_the_mean_over_pairs() -> None:
    assert measure_agreement(["in Rome", "in Rome", "in Oslo"], score_token_f1) == pytest.approx(
        (1.0 + 0.5 + 0.5) / 3
    )
