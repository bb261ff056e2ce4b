"""Which size is tried next, and which one is the smallest that is good enough."""

from __future__ import annotations

import pytest

from llmtrain_operator.cli.sizes import (
    Outcome,
    Tolerance,
    follow_search,
    format_size,
    parse_sizes,
    parse_tolerance,
)

SIZES = [12, 6, 3]
TWO_PERCENT = Tolerance(0.02, True)


def measure(*values: float | None, failing: int | None = None) -> list[Outcome]:
    return [
        Outcome(size=size, value=value, passed=size != failing)
        for size, value in zip(SIZES, values, strict=False)
    ]


@pytest.mark.parametrize(
    ("outcomes", "metric", "best", "following"),
    [
        ([], "loss", None, 12),
        (measure(2.0), "loss", 12, 6),
        (measure(2.0, 2.04), "loss", 6, 3),
        (measure(2.0, 2.05), "loss", 12, None),
        (measure(2.0, 2.03, 2.04), "loss", 3, None),
        (measure(2.0, 2.03, 2.2), "loss", 6, None),
        (measure(2.0, 1.9), "loss", 6, 3),
        (measure(0.8, 0.79), "qa.token_f1", 6, 3),
        (measure(0.8, 0.78), "qa.token_f1", 12, None),
        (measure(2.0, 2.0, failing=6), "loss", 12, None),
        (measure(2.0, failing=12), "loss", None, None),
        (measure(None), "loss", None, None),
        (measure(2.0, None), "loss", 12, None),
    ],
)
def test_a_search_stops_at_the_first_that_is_not_good_enough(
    outcomes: list[Outcome], metric: str, best: int | None, following: int | None
) -> None:
    search = follow_search(SIZES, outcomes, metric, TWO_PERCENT)
    assert (search.best, search.following) == (best, following)


def test_limits_lie_on_the_worse_side() -> None:
    assert TWO_PERCENT.find_limit("perplexity", 10.0) == pytest.approx(10.2)
    assert Tolerance(0.05, False).find_limit("accuracy", 0.8) == pytest.approx(0.75)


def test_sizes_and_tolerances_are_read() -> None:
    assert parse_sizes("500k, 12M,1.3B,12m") == [1_300_000_000, 12_000_000, 500_000]
    assert [format_size(size) for size in (1_300_000_000, 12_000, 1234)] == ["1300m", "12k", "1234"]
    assert parse_tolerance("2%") == TWO_PERCENT
    assert parse_tolerance("0.05") == Tolerance(0.05, False)


@pytest.mark.parametrize("text", ["12M", "12M,large", "", "12M,-3"])
def test_what_is_no_list_of_sizes_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_sizes(text)
