"""Documents left out for what they are: nothing, too short, too long, in another language.

Below: py3langid, whose model comes with it. Above: `refine`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from llmtrain_api.recipe import Clean
from llmtrain_trainer.preparation.step import CountRule

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

MISSING = frozenset({"", "-", "?", "n/a", "na", "nan", "nil", "none", "null", "[deleted]"})
"""What exports write where there is nothing."""

MISSING_CHARACTERS = max(map(len, MISSING)) + 8
"""Longer texts are not compared; the surplus is for whitespace."""

SAMPLE_CHARACTERS = 1000
"""The language is that of the middle of a document: its ends are headings and names."""


def select_text(clean: Clean, text: str, count: CountRule) -> str | None:
    """Return a text that `clean` lets pass, or None."""
    if len(text) <= MISSING_CHARACTERS and text.strip().lower() in MISSING:
        count("missing value", f"{len(text)} characters")
    elif text.isspace():
        count("missing value", f"{len(text)} characters of whitespace")
    elif len(text) < clean.min_characters:
        count("too short", f"{len(text)} characters, at least {clean.min_characters}")
    elif clean.max_characters is not None and len(text) > clean.max_characters:
        count("too long", f"{len(text)} characters, at most {clean.max_characters}")
    elif clean.languages and not _is_language(text, clean, count):
        pass
    else:
        return text
    return None


def identify_language(text: str) -> tuple[str, float]:
    """Return the language of a text and its probability."""
    start = max(0, (len(text) - SAMPLE_CHARACTERS) // 2)
    name, probability = _load_identifier().classify(text[start : start + SAMPLE_CHARACTERS])
    return str(name), float(probability)


def _is_language(text: str, clean: Clean, count: CountRule) -> bool:
    name, probability = identify_language(text)
    if name in clean.languages and probability >= clean.language_confidence:
        return True
    count("language", f"{name} with probability {probability:.2f}")
    return False


@cache
def _load_identifier() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier: LanguageIdentifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    return identifier
