"""Groups of people: who is mentioned, and which words are told to go with them."""

from __future__ import annotations

from collections import Counter

import pytest

from llmtrain_trainer.data_report.groups import choose_words, describe_groups, score_words
from llmtrain_trainer.data_report.terms import TERMS

LISTS = {"gender": {"women": frozenset({"she", "her"}), "men": frozenset({"he", "his"})}}


def test_terms_name_one_group_each() -> None:
    terms = [term for groups in TERMS.values() for words in groups.values() for term in words]
    assert len(terms) == len(set(terms))
    assert all(term == term.lower() for term in terms)


def test_mentions_and_documents_are_counted_apart() -> None:
    texts = ["She lost her keys.", "He ran.", "Nobody came.", "HIS car; her car."]
    women, men = describe_groups(texts, LISTS)
    assert (women.group, women.mentions, women.documents) == ("women", 3, 2)
    assert (men.group, men.mentions, men.documents) == ("men", 2, 2)


def test_words_that_stand_near_one_group_only_are_found() -> None:
    texts = ["she is a nurse in the town"] * 40 + ["he is an engineer in the town"] * 40
    women, men = describe_groups(texts, LISTS)
    assert [word.word for word in women.words] == ["nurse"]
    assert [word.word for word in men.words] == ["engineer"]
    assert women.words[0].count == 40


def test_words_far_from_a_term_do_not_count() -> None:
    texts = ["she " + "walked " * 30 + "nurse"] * 40 + ["he walked"] * 40
    women, _ = describe_groups(texts, LISTS)
    assert "nurse" not in {word.word for word in women.words}


def test_what_both_have_alike_and_what_is_rare_is_left_out() -> None:
    near, other = Counter({"town": 400, "nurse": 60, "smith": 2}), Counter({"town": 400, "law": 60})
    assert [word.word for word in choose_words(near, [other])] == ["nurse"]


@pytest.mark.parametrize("others", [[], [Counter[str]()]])
def test_without_others_there_is_nothing_to_compare(others: list[Counter[str]]) -> None:
    assert choose_words(Counter({"town": 100}), others) == []


def test_scores_of_both_sides_are_opposite() -> None:
    here, there = Counter({"a": 30, "b": 10}), Counter({"a": 10, "b": 30})
    assert score_words(here, there)["a"] == pytest.approx(-score_words(there, here)["a"])
