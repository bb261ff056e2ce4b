r"""Quarantine: what is kept of a record that cannot be read, so that its owner can mend it.

Below: `privacy`, by whose policy private values are taken out. Above: `collect` writes a line of
`quarantine.jsonl` of each.

A broken record has not gone through the steps that a document goes through, and personal data in it
may be written in ways that only a reader of its format would undo. So three of these are undone
before it is searched: \u escapes of JSON, entities of HTML, and the zero bytes of UTF-16.
"""

from __future__ import annotations

import base64
import html
import re
from collections import Counter
from typing import Any

from llmtrain_api.recipe import PersonalData, Privacy, PrivacyAction
from llmtrain_trainer.preparation.privacy import replace_personal_data

MAX_KEPT_CHARACTERS = 64 * 1024
"""Of one record: enough to see what is wrong with it."""

MAX_SEARCHED_CHARACTERS = 2 * MAX_KEPT_CHARACTERS
"""More than is kept, so that no value is found by its first half alone."""

JSON_ESCAPE = re.compile(r"\\u00([2-7][0-9a-fA-F])")
"""Of a character of ASCII that can be seen; all values that are looked for are made of these."""


def describe_record(record: bytes, privacy: Privacy, *, may_be_erased: bool) -> dict[str, Any]:
    """Return what quarantine keeps of a record, as fields of a JSON object.

    Args:
        record: as it was found.
        privacy: off, report: it is kept as it is, like the text of a document; replace:
            placeholders are in the place of personal data; drop: a record that holds some is
            withheld.
        may_be_erased: whether there are lists of documents that must not be used. What cannot be
            read cannot be held against them, and is withheld.

    Returns:
        `bytes`: its size; `record`, or `recordBase64` where it is no UTF-8: its first 64 Ki
        characters; or `withheld`: the field of the manifest because of which it is not there.
    """
    facts: dict[str, Any] = {"bytes": len(record)}
    if may_be_erased:
        return facts | {"withheld": "data.privacy.erase"}
    text = record.decode(errors="surrogateescape")[:MAX_SEARCHED_CHARACTERS]
    if privacy.action in (PrivacyAction.REPLACE, PrivacyAction.DROP):
        found: Counter[PersonalData] = Counter()
        text = replace_personal_data(_undo_escapes(text), privacy.kinds, found)
        if found and privacy.action is PrivacyAction.DROP:
            return facts | {"withheld": "data.privacy.action"}
    kept = text[:MAX_KEPT_CHARACTERS].encode(errors="surrogateescape")
    try:
        return facts | {"record": kept.decode()}
    except UnicodeDecodeError:
        return facts | {"recordBase64": base64.b64encode(kept).decode()}


def _undo_escapes(text: str) -> str:
    text = JSON_ESCAPE.sub(lambda match: chr(int(match[1], 16)), text.replace("\0", ""))
    return html.unescape(text) if "&" in text else text
