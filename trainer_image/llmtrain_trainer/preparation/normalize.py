"""Text in its normal form: repaired encoding, one way to write a character, nothing unseen.

Below: ftfy, the standard library. Above: `refine`.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

from llmtrain_api.recipe import Clean, UnicodeForm
from llmtrain_trainer.preparation.step import CountRule

LINE_ENDS = re.compile(r"\r\n?|\u2028|\u0085")
PARAGRAPH_ENDS = "\u2029"
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\ufffe\uffff]+")

SPACES = re.compile(r"[^\S\n]{2,}|[^\S\n ]")
SPACES_AT_LINE_END = re.compile(r"[^\S\n]+(?=\n|\Z)")
BLANK_LINES = re.compile(r"\n{3,}")

FORMS: dict[UnicodeForm, Literal["NFC", "NFKC"]] = {
    UnicodeForm.NFC: "NFC",
    UnicodeForm.NFKC: "NFKC",
}


def normalize_text(clean: Clean, text: str, count: CountRule) -> str:
    """Return a text as `clean` wants it written."""
    if clean.repair_encoding and not text.isascii():
        text = _note(text, repair_encoding(text), "encoding repaired", count)
    if clean.remove_control_characters:
        text = _note(text, remove_controls(text), "control characters removed", count)
    form = FORMS.get(clean.unicode)
    if form is not None and not unicodedata.is_normalized(form, text):
        text = _note(text, unicodedata.normalize(form, text), f"written in {form}", count)
    if clean.collapse_whitespace:
        text = _note(text, collapse_whitespace(text), "whitespace collapsed", count)
    return text


def repair_encoding(text: str) -> str:
    """Mend the lines that look as if UTF-8 had been decoded as something else.

    Only such lines: what is repaired for one line would be damage in another.
    """
    from ftfy import fix_encoding
    from ftfy.badness import is_bad

    if not is_bad(text):
        return text
    lines = text.split("\n")
    return "\n".join(fix_encoding(line) if is_bad(line) else line for line in lines)


def remove_controls(text: str) -> str:
    """Return a text without what no reader sees, its lines ended by line feeds."""
    if PARAGRAPH_ENDS in text:
        text = text.replace(PARAGRAPH_ENDS, "\n\n")
    return CONTROLS.sub("", LINE_ENDS.sub("\n", text))


def collapse_whitespace(text: str) -> str:
    """Return a text with single spaces and single blank lines."""
    text = SPACES_AT_LINE_END.sub("", text)
    return BLANK_LINES.sub("\n\n", SPACES.sub(" ", text)).strip()


def _note(before: str, after: str, rule: str, count: CountRule) -> str:
    if after != before:
        count(rule)
    return after
