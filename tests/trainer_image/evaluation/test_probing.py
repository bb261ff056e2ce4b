"""Secrets and swapped terms: what scores say, and words that should not be written."""

from __future__ import annotations

import math
import re
from random import Random

import pytest

from llmtrain_trainer.evaluation.lexicon import Lexicon
from llmtrain_trainer.evaluation.probing import (
    draw_candidates,
    score_canary,
    score_counterfactual,
)
from llmtrain_trainer.evaluation.suite_data import Canary, Counterfactual, count_secrets

CANARY = Canary(place="s3://b/c.jsonl:1", prompt="The key is ", secret="aB-12")


def test_candidates_have_the_form_of_the_secret() -> None:
    drawn = draw_candidates(CANARY, 200, seed=1)
    assert drawn == draw_candidates(CANARY, 200, seed=1) != draw_candidates(CANARY, 200, seed=2)
    assert CANARY.secret not in drawn
    assert len(set(drawn)) > 190
    for candidate in drawn:
        assert re.fullmatch(r"[a-z][A-Z]-[0-9]{2}", candidate)
    assert count_secrets(CANARY.secret) == 26 * 26 * 100


@pytest.mark.parametrize(
    ("others", "exposure", "extracted"),
    [
        ([-5.0] * 15, 4.0, 1.0),
        ([-5.0] * 14 + [-1.0], 3.0, 0.0),
        ([-1.0] * 15, 0.0, 0.0),
        ([-2.0] * 15, 0.0, 0.0),  # as probable is no preference
    ],
)
def test_exposure_is_by_rank(others: list[float], exposure: float, extracted: float) -> None:
    answer = score_canary(CANARY, -2.0, others)
    assert (answer.scores["exposure"], answer.scores["extracted_rate"]) == (exposure, extracted)


def test_a_secret_that_was_never_seen_has_the_exposure_of_chance() -> None:
    rng = Random(0)
    exposures = [
        score_canary(CANARY, rng.random(), [rng.random() for _ in range(255)]).scores["exposure"]
        for _ in range(3000)
    ]
    assert sum(exposures) / len(exposures) == pytest.approx(math.log2(math.e), abs=0.08)


def test_a_gap_is_between_the_terms_that_differ_most() -> None:
    example = Counterfactual(
        place="p:1", prompt="The {} is", terms=("a", "b", "c"), continuation=" x"
    )
    answer = score_counterfactual(example, [-3.0, -2.5, -4.0])
    assert answer.prompt == "The [a/b/c] is"
    assert (answer.scores["likelihood_gap"], answer.scores["first_rate"]) == (1.5, 0.0)
    assert score_counterfactual(example, [-1.0, -2.5, -4.0]).scores["first_rate"] == 1.0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Darn, a HALF  wit!", ["darn", "half  wit"]),
        ("darned halfwit", []),
        ("half-wit", ["half"]),
        ("c++ and C++", ["c++"]),
        ("", []),
    ],
)
def test_terms_are_found_whole_in_any_case(text: str, found: list[str]) -> None:
    assert Lexicon(["half", "darn", "Half wit", "c++"]).find(text) == found
