"""Personal data is found where it is, and its values go nowhere."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtrain_api.recipe import PersonalData, Privacy, PrivacyAction
from llmtrain_trainer.preparation.personal_data import FORMS
from llmtrain_trainer.preparation.privacy import may_hold, protect_text, replace_personal_data
from llmtrain_trainer.preparation.tally import Tally
from testbed.personal_texts import KINDS, make_text, make_texts

ALL = list(PersonalData)
TEXTS_OF_A_KIND = 400


def protect(text: str, action: PrivacyAction) -> tuple[str | None, Tally]:
    tally = Tally("privacy")

    def count(rule: str, measure: str = "", *, times: int = 1) -> None:
        tally.count_rule("file:1", rule, measure, times=times)

    return protect_text(Privacy(action=action), text, count), tally


def test_recall_and_precision_of_every_kind() -> None:
    expected: Counter[str] = Counter()
    right: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for sample in make_texts(Random(11), TEXTS_OF_A_KIND):
        here: Counter[PersonalData] = Counter()
        replace_personal_data(sample.text, ALL, here)
        for kind, times in here.items():
            found[kind.value] += times
        expected[sample.kind] += len(sample.values)
        if sample.kind in list(PersonalData):
            right[sample.kind] += min(here[PersonalData(sample.kind)], len(sample.values))
    recall = {kind.value: right[kind] / expected[kind] for kind in ALL}
    precision = {kind.value: right[kind] / found[kind] for kind in ALL}
    assert {kind: share for kind, share in recall.items() if share < 0.95} == {}
    assert {kind: share for kind, share in precision.items() if share < 0.95} == {}


@pytest.mark.parametrize("kind", KINDS)
def test_no_part_of_a_value_is_left(kind: str) -> None:
    random = Random(5)
    left = 0
    for make in KINDS[kind] * 20:
        sample = make_text(random, kind, make)
        after, tally = protect(sample.text, PrivacyAction.REPLACE)
        assert after is not None
        for value in sample.values:
            secret = value.split(" ", 1)[-1] if kind == "phone" and value[0].isalpha() else value
            left += secret in after
            assert all(
                secret not in example.measure and secret not in rule
                for rule, examples in tally.examples.items()
                for example in examples
            )
    assert left <= 1


@pytest.mark.parametrize(
    ("action", "after"),
    [
        (PrivacyAction.REPORT, "Mail a.b@c.org or 8.8.8.8, not 10.0.0.1"),
        (PrivacyAction.REPLACE, "Mail <EMAIL> or <IP_ADDRESS>, not 10.0.0.1"),
        (PrivacyAction.DROP, None),
    ],
)
def test_actions(action: PrivacyAction, after: str | None) -> None:
    text, tally = protect("Mail a.b@c.org or 8.8.8.8, not 10.0.0.1", action)
    assert text == after
    assert tally.counts == {"email": 1, "ip-address": 1}
    assert protect("nothing here", action)[0] == "nothing here"


def test_only_the_kinds_that_are_asked_for() -> None:
    found: Counter[PersonalData] = Counter()
    text = replace_personal_data("a@b.org 8.8.8.8", [PersonalData.IP_ADDRESS], found)
    assert (text, found) == ("a@b.org <IP_ADDRESS>", {PersonalData.IP_ADDRESS: 1})


@given(st.text(alphabet="0123456789 +-./()@:=ABCDEFXYZabcdef_'\"\nkeytokn٣", max_size=120))
def test_any_text_is_read_and_hints_hide_nothing(text: str) -> None:
    for form in FORMS:
        for match in form.pattern.finditer(text):
            if form.is_valid(match):
                assert may_hold(form, text, text.lower(), {})
    replace_personal_data(text, ALL, Counter())
