"""Personal data and secrets in documents: counted, replaced, or a reason to leave one out.

Below: `personal_data` for what they look like. Above: `refine`.

What was found is counted by its kind and place; a value leaves this module in no other way than
in the text of a document.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import partial

from llmtrain_api.recipe import PersonalData, Privacy, PrivacyAction
from llmtrain_trainer.preparation.personal_data import FORMS, Form
from llmtrain_trainer.preparation.step import CountRule


def protect_text(privacy: Privacy, text: str, count: CountRule) -> str | None:
    """Return a text as `privacy` wants it, or None."""
    found: Counter[PersonalData] = Counter()
    protected = replace_personal_data(text, privacy.kinds, found)
    for kind, times in sorted(found.items()):
        count(kind.value, f"{times} in the document", times=times)
    if not found or privacy.action is PrivacyAction.REPORT:
        return text
    return protected if privacy.action is PrivacyAction.REPLACE else None


def replace_personal_data(
    text: str, kinds: list[PersonalData], found: Counter[PersonalData]
) -> str:
    """Return a text with placeholders for personal data of these kinds, and count them."""
    lowered = text.lower()
    hints: dict[re.Pattern[str], bool] = {}
    for form in FORMS:
        if form.kind not in kinds or not may_hold(form, text, lowered, hints):
            continue
        text = form.pattern.sub(partial(_replace, form, found), text)
    return text


def may_hold(form: Form, text: str, lowered: str, hints: dict[re.Pattern[str], bool]) -> bool:
    """Return whether it is worth searching for a form; `hints` remembers what was searched."""
    if form.words and not any(word in lowered for word in form.words):
        return False
    if form.hint is not None and form.hint not in hints:
        hints[form.hint] = form.hint.search(text) is not None
    return form.hint is None or hints[form.hint]


def _replace(form: Form, found: Counter[PersonalData], match: re.Match[str]) -> str:
    if not form.is_valid(match):
        return match[0]
    found[form.kind] += 1
    group = "value" if "value" in form.pattern.groupindex else 0
    start, end = match.start(group) - match.start(), match.end(group) - match.start()
    placeholder = f"<{form.kind.value.upper().replace('-', '_')}>"
    return match[0][:start] + placeholder + match[0][end:]
