"""Each published threshold: a text on either side of it."""

from __future__ import annotations

from random import Random

import pytest

from llmtrain_api.recipe import QualityRules
from llmtrain_trainer.preparation.quality import judge_text
from llmtrain_trainer.preparation.repetition import measure_repetition
from llmtrain_trainer.preparation.tally import Tally


def write_sentence(random: Random) -> str:
    """Write words that never were, among stop words."""
    words = ["".join(random.choices("abcdefghij", k=random.randint(3, 9))) for _ in range(12)]
    return "The {} {} and {} {} of {} {} have {} {} to {} {} with {} {}.".format(*words)


SENTENCES = [write_sentence(Random(seed)) for seed in range(14)]
GOOD = "\n".join(SENTENCES)


def judge(text: str, rules: QualityRules) -> tuple[str | None, str | None]:
    """Return what is left of a text, and the rule that applied."""
    tally = Tally("quality")

    def count(rule: str, measure: str = "", *, times: int = 1) -> None:
        tally.count_rule("file:1", rule, measure, times=times)

    left = judge_text(rules, text, count)
    return left, next(iter(tally.counts), None)


@pytest.mark.parametrize("rules", list(QualityRules))
def test_good_text_passes(rules: QualityRules) -> None:
    assert judge(GOOD, rules) == (GOOD, None)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("the and " * 24, "words"),
        ("the and " + "of a " * 30, "mean word length"),
        ("internationalisation of incomprehensibilities and " * 40, "mean word length"),
        ("# the wording " * 30, "hashes per word"),
        ("word the ... " * 30, "ellipses per word"),
        ("- the word and others\n" * 30, "share of lines that begin with a bullet"),
        (
            "the word goes on and on and then on and on...\nand then\n" * 10,
            "share of lines that end with an ellipsis",
        ),
        ("the and 1234 5678 " * 30, "share of words with a letter"),
        ("some words without any others " * 20, "different stop words"),
    ],
)
def test_gopher(text: str, rule: str) -> None:
    assert judge(text, QualityRules.GOPHER) == (None, f"gopher: {rule}")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("\n".join([*SENTENCES, *["Same."] * 12]), "share of repeated lines"),
        ("\n\n".join([*SENTENCES[:10], *[SENTENCES[0]] * 4]), "share of characters in repeated"),
        (" ".join(f"big dog {n}" for n in range(1000, 1050)), "the commonest 2-gram"),
        (" ".join(SENTENCES * 2), "share of characters in repeated 5-grams"),
    ],
)
def test_gopher_repetition(text: str, rule: str) -> None:
    left, applied = judge(text, QualityRules.GOPHER_REPETITION)
    assert left is None
    assert applied is not None
    assert rule in applied


def test_repetition_of_words_is_measured_by_hand() -> None:
    text = "aa bb cc aa bb dd"
    measures = measure_repetition(text)
    assert measures["share of characters in the commonest 2-gram"] == pytest.approx(8 / 12)
    assert measures["share of characters in the commonest 3-gram"] == 0
    twice = " ".join(["one two three four five", "six", "one two three four five"])
    repeated = measure_repetition(twice)["share of characters in repeated 5-grams"]
    assert repeated == pytest.approx(19 / (19 + 3 + 19))
    assert measure_repetition("")["share of repeated lines"] == 0


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("\n".join(f"{i} things on a list that never ends" for i in range(20)), "end a sentence"),
        ("\n".join(f"Short line {i}." for i in range(20)), "below 30 characters"),
        ("\n".join([*SENTENCES, SENTENCES[0], SENTENCES[1]]), "characters in repeated lines"),
    ],
)
def test_fineweb(text: str, rule: str) -> None:
    left, applied = judge(text, QualityRules.FINEWEB)
    assert left is None
    assert applied is not None
    assert rule in applied


def test_c4_keeps_sentences() -> None:
    kept = "This line has words enough [12] to stay. It is kept! Is it?"
    text = "\n".join(["Menu", kept, "Please turn on Javascript to see this page.", "It goes on..."])
    left, rule = judge(text, QualityRules.C4)
    assert (left, rule) == (kept.replace("[12]", ""), "c4: lines removed")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (GOOD + "\nLorem ipsum dolor sit amet.", "c4: lorem ipsum"),
        (GOOD + "\nf = {};", "c4: curly bracket"),
        ("Only one sentence is left here.\nMenu", "c4: sentences"),
    ],
)
def test_c4_leaves_pages_out(text: str, rule: str) -> None:
    assert judge(text, QualityRules.C4) == (None, rule)
