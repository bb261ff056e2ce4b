"""Gates: what is one, what it comes to, and what is said of it."""

from __future__ import annotations

import math
import re

import pytest

from llmtrain_api.evaluation import CLASSES_PATTERN, NAMES_PATTERN, check_gate
from llmtrain_api.gates import GATE_PATTERN, describe_result, judge_gate, parse_gate

METRICS = {
    "perplexity": 41.2,
    "bits_per_byte": 2.0,
    "unigram.bits_per_byte": 1.9,
    "accuracy": None,
    "loss": math.nan,
    "zero": 0.0,
    "class.f1": 0.5,
}


@pytest.mark.parametrize(
    ("text", "passed", "said"),
    [
        ("perplexity <= 41.2", True, "perplexity is 41.2, exactly 41.2"),
        ("perplexity <= 40", False, "perplexity is 41.2, 1.2 above 40"),
        ("class.f1 > 1e-1", True, "class.f1 is 0.5, 0.4 above 0.1"),
        (
            "perplexity < 50 && bits_per_byte < unigram.bits_per_byte * 1.01",
            False,
            "bits_per_byte is 2, 0.081 above 1.919, which unigram.bits_per_byte * 1.01 is",
        ),
        ("perplexity < 3 || bits_per_byte == 2", True, "bits_per_byte is 2, exactly 2"),
        ("perplexity < 3 || bits_per_byte < 1", False, "perplexity is 41.2, 38.2 above 3"),
        ("(perplexity < 3 || zero < 1) && zero >= 0", True, "zero is 0, 1 below 1"),
        ("perplexity > 3 || zero < 1 && zero > 1", True, "perplexity is 41.2, 38.2 above 3"),
        ("-(zero - 2) * 3 > 5", True, "-(zero - 2) * 3 is 6, 1 above 5"),
        ("perplexity / zero < 1", False, "perplexity / zero is no number"),
        # Part of it would hold, but what is not known fails all of it.
        ("perplexity > 3 || accuracy > 0.5", False, "accuracy was not measured, or is no number"),
        ("loss < 3", False, "loss was not measured, or is no number"),
        ("f1 < 3", False, "f1 was not measured, or is no number"),
    ],
)
def test_a_gate_is_judged_and_explained(text: str, passed: bool, said: str) -> None:
    result = judge_gate(text, METRICS)
    assert result.passed is passed
    assert describe_result(text, result) == said
    assert re.search(GATE_PATTERN, text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("perplexity", "a gate compares metrics"),
        ("loss < 1 < 2", "a gate compares metrics"),
        ("loss < 1 and loss > 0", "a gate compares metrics"),
        ("__import__('os') < 1", r"\"__import__\('os'\) < 1\" cannot be read"),
        ("loss < 1; loss", "'; loss' cannot be read"),
        ("exit() < 1", "a gate compares metrics"),
        ("(lambda: loss) < 1", "': loss\\) < 1' cannot be read"),
        ("loss + (loss < 2) < 1", "a gate compares metrics"),
        ("perplexty < 40", r"unknown metric perplexty; .* did you mean perplexity\?"),
        ("unigram.ece < 40", r"unknown metric unigram\.ece; known here: loss, perplexity"),
    ],
)
def test_anything_else_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        check_gate(text)


@pytest.mark.parametrize(
    ("text", "is_known"),
    [
        ("loss < 4 && (qa.bleu >= baseline.qa.bleu || 1e5*perplexity==0.5)", True),
        ("  loss<unigram.loss", True),
        ("losses < 4", False),
        ("loss.x < 4", False),
        ("qa.blue > 4", False),
        ("f1_macro > tfidf.f1_macro + 0.1 && baseline.roc_auc<1", True),
        ("tfidf.loss < 4", False),
        ("f1_median > 4", False),
    ],
)
def test_the_pattern_of_names_knows_metrics(text: str, is_known: bool) -> None:
    assert bool(re.search(NAMES_PATTERN, text)) is is_known


@pytest.mark.parametrize(
    ("text", "names_labels"),
    [
        ("loss < 3 && qa.token_f1 > 0.5", False),
        ("ece.bleu > 3 || qa.f1_macros > 1", False),  # suites may have such names
        ("loss < 3 || ece<0.1", True),
        ("accuracy > majority.accuracy", True),
        ("baseline.f1_macro < 1", True),
        ("tfidf.accuracy < accuracy", True),
    ],
)
def test_what_is_about_labels_is_told_by_its_name(text: str, names_labels: bool) -> None:
    assert bool(re.search(CLASSES_PATTERN, text)) is names_labels


def test_reading_never_fails_otherwise() -> None:
    for text in ("(" * 198 + "a<1", "1" * 190 + " < loss", "a" * 100 + "<" * 50, "1e999 < loss"):
        try:
            parse_gate(text)
        except ValueError:
            continue
