"""What quarantine keeps of records: by the privacy policy, and whatever they are made of."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from llmtrain_api.recipe import Privacy, PrivacyAction
from llmtrain_trainer.preparation.quarantine import MAX_KEPT_CHARACTERS, describe_record

MAIL = b'{"text": "ask ann@example.org"'


@pytest.mark.parametrize(
    ("action", "record", "kept"),
    [
        ("off", MAIL, {"record": MAIL.decode()}),
        ("report", MAIL, {"record": MAIL.decode()}),
        ("replace", MAIL, {"record": '{"text": "ask <EMAIL>"'}),
        ("drop", MAIL, {"withheld": "data.privacy.action"}),
        ("drop", b'{"text": ', {"record": '{"text": '}),
        # Written in ways that the format's reader would have undone.
        ("replace", rb'"ann\u0040example.org', {"record": '"<EMAIL>'}),
        ("replace", b"<p>ann&#64;example.org", {"record": "<p><EMAIL>"}),
        ("replace", "ann@example.org".encode("utf-16-le"), {"record": "<EMAIL>"}),
        # No UTF-8: the same bytes come out, but for what is personal.
        (
            "replace",
            b"caf\xe9 ann@example.org",
            {"recordBase64": base64.b64encode(b"caf\xe9 <EMAIL>").decode()},
        ),
    ],
)
def test_a_record_is_kept_as_the_policy_says(
    action: str, record: bytes, kept: dict[str, Any]
) -> None:
    privacy = Privacy(action=PrivacyAction(action))
    found = describe_record(record, privacy, may_be_erased=False)
    assert found == {"bytes": len(record), **kept}


def test_beside_a_list_of_erased_documents_nothing_is_kept() -> None:
    found = describe_record(b"{", Privacy(), may_be_erased=True)
    assert found == {"bytes": 1, "withheld": "data.privacy.erase"}


def test_of_a_long_record_the_beginning_is_kept_and_no_half_of_a_value() -> None:
    record = b"x " * (MAX_KEPT_CHARACTERS // 2 - 2) + b"ann@example.org " * 3
    privacy = Privacy(action=PrivacyAction.REPLACE)
    kept = describe_record(record, privacy, may_be_erased=False)["record"]
    assert len(kept) == MAX_KEPT_CHARACTERS
    assert kept.endswith(" <EMA")
