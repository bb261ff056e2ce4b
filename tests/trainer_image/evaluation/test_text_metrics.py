"""Measures of texts against worked examples."""

from __future__ import annotations

import random

import pytest
import sacrebleu

from llmtrain_trainer.evaluation.text_metrics import (
    count_common,
    normalize_answer,
    score_bleu,
    score_chrf,
    score_exact_match,
    score_rouge_l,
    score_token_f1,
)


@pytest.mark.parametrize(
    ("answer", "references", "exact", "f1"),
    [
        ("The Denver Broncos!", ["denver broncos"], 1.0, 1.0),
        ("Denver", ["Denver Broncos", "Broncos"], 0.0, 2 / 3),
        ("in the year 1066", ["1066", "year 1066"], 0.0, 0.8),
        ("", ["a"], 1.0, 1.0),  # both are nothing once articles are left out
        ("", ["something"], 0.0, 0.0),
        ("cat cat cat", ["cat sat"], 0.0, 2 * 1 / 5),
    ],
)
def test_answers_are_compared_as_squad_does(
    answer: str, references: list[str], exact: float, f1: float
) -> None:
    assert score_exact_match(answer, references) == exact
    assert score_token_f1(answer, references) == pytest.approx(f1)


def test_normalisation() -> None:
    assert normalize_answer("An  apple, a day; the end.") == "apple day end"
    assert normalize_answer("Therapist") == "therapist"


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        # The examples of Lin 2004, section 3: LCS of 3 and of 2 words out of 4.
        ("police kill the gunman", "police killed the gunman", 0.75),
        ("the gunman kill police", "police killed the gunman", 0.5),
        ("gleich wie größer", "Größer, gleich", 0.4),
        ("", "word", 0.0),
    ],
)
def test_rouge_l(answer: str, reference: str, expected: float) -> None:
    assert score_rouge_l(answer, [reference]) == pytest.approx(expected)
    assert score_rouge_l(answer, ["nothing", reference]) == pytest.approx(expected)


def test_common_subsequences_by_bits_are_those_by_the_table() -> None:
    draw = random.Random(0)
    for _ in range(200):
        first, second = ([draw.choice("abcd") for _ in range(draw.randrange(12))] for _ in "12")
        table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
        for i, left in enumerate(first):
            for j, right in enumerate(second):
                longer = max(table[i][j + 1], table[i + 1][j])
                table[i + 1][j + 1] = table[i][j] + 1 if left == right else longer
        assert count_common(first, second) == table[-1][-1]


def test_corpus_measures_are_those_of_sacrebleu_with_any_number_of_references() -> None:
    answers = ["the cat sat on the mat today", "it is raining in the north"]
    same = [["a cat sat on the mat today"], ["it is raining in the far north"]]
    streams = [[own[0] for own in same]]
    assert score_bleu(answers, same) == sacrebleu.corpus_bleu(answers, streams).score
    assert score_chrf(answers, same) == sacrebleu.corpus_chrf(answers, streams).score
    more = [[*same[0], "the cat sat on the mat today"], same[1]]
    assert score_bleu(answers, more) > score_bleu(answers, same) > 40
    assert score_chrf(["same"], [["same"]]) == pytest.approx(100.0)
