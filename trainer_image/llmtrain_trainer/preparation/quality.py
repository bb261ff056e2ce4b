"""Quality heuristics as their authors published them: measures of a text, and their bounds.

Below: `repetition` for the measures of repeated text. Above: `refine`.

    gopher              Rae et al. 2021, Scaling Language Models (arXiv:2112.11446), appendix A1.1
    gopher-repetition   the same, table A1
    c4                  Raffel et al. 2020, Exploring the Limits of Transfer Learning, section 2.2;
                        without the list of bad words, which removes whole groups of people
    fineweb             Penedo et al. 2024, The FineWeb Datasets (arXiv:2406.17557), section 3.5
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from llmtrain_api.recipe import QualityRules
from llmtrain_trainer.preparation.repetition import measure_repetition
from llmtrain_trainer.preparation.step import CountRule

Measures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Bound:
    """The values of a measure with which a document is kept."""

    measure: str
    low: float = -math.inf
    high: float = math.inf


GOPHER = (
    Bound("words", low=50, high=100_000),
    Bound("mean word length", low=3, high=10),
    Bound("hashes per word", high=0.1),
    Bound("ellipses per word", high=0.1),
    Bound("share of lines that begin with a bullet", high=0.9),
    Bound("share of lines that end with an ellipsis", high=0.3),
    Bound("share of words with a letter", low=0.8),
    Bound("different stop words", low=2),
)

GOPHER_REPETITION = (
    Bound("share of repeated lines", high=0.30),
    Bound("share of repeated paragraphs", high=0.30),
    Bound("share of characters in repeated lines", high=0.20),
    Bound("share of characters in repeated paragraphs", high=0.20),
    Bound("share of characters in the commonest 2-gram", high=0.20),
    Bound("share of characters in the commonest 3-gram", high=0.18),
    Bound("share of characters in the commonest 4-gram", high=0.16),
    Bound("share of characters in repeated 5-grams", high=0.15),
    Bound("share of characters in repeated 6-grams", high=0.14),
    Bound("share of characters in repeated 7-grams", high=0.13),
    Bound("share of characters in repeated 8-grams", high=0.12),
    Bound("share of characters in repeated 9-grams", high=0.11),
    Bound("share of characters in repeated 10-grams", high=0.10),
)

FINEWEB = (
    Bound("share of lines that end a sentence", low=0.12),
    Bound("share of lines below 30 characters", high=0.67),
    Bound("share of characters in repeated lines", high=0.1),
)

C4_WORDS_OF_LINE = 5
C4_SENTENCES = 3
C4_ENDS = (".", "!", "?", '"', "”")
C4_SENTENCE_END = re.compile(r"[.!?][\"”')\]]*(?=\s|$)")
C4_UNWANTED_LINE = re.compile(
    r"javascript|terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies",
    re.IGNORECASE,
)
C4_CITATIONS = re.compile(r"\[(?:\d+|edit|citation needed)\]", re.IGNORECASE)

STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
BULLETS = ("-", "*", "•", "‣", "▪", "◦", "–")
ELLIPSES = ("...", "…")
SENTENCE_ENDS = (".", "!", "?", '"', "'", "”", "’", "。", "！", "？", "؟", "।")
SHORT_LINE_CHARACTERS = 30
LETTER = re.compile(r"[^\W\d_]")


def judge_text(rules: QualityRules, text: str, count: CountRule) -> str | None:
    """Return a text that passes a set of rules, as they leave it, or None."""
    if rules is QualityRules.C4:
        return keep_sentences(text, count)
    measure, bounds = SETS[rules]
    measures = measure(text)
    for bound in bounds:
        value = measures[bound.measure]
        if not bound.low <= value <= bound.high:
            limit = f"at least {bound.low:g}" if value < bound.low else f"at most {bound.high:g}"
            count(f"{rules.value}: {bound.measure}", f"{value:.4g}, {limit}")
            return None
    return text


def measure_gopher(text: str) -> Measures:
    """Return the measures that `GOPHER` bounds."""
    words = text.split()
    lines = _list_lines(text)
    num_words, num_lines = max(len(words), 1), max(len(lines), 1)
    return {
        "words": len(words),
        "mean word length": sum(map(len, words)) / num_words,
        "hashes per word": text.count("#") / num_words,
        "ellipses per word": sum(map(text.count, ELLIPSES)) / num_words,
        "share of lines that begin with a bullet": _count(lines, str.startswith, BULLETS)
        / num_lines,
        "share of lines that end with an ellipsis": _count(lines, str.endswith, ELLIPSES)
        / num_lines,
        "share of words with a letter": sum(1 for word in words if LETTER.search(word)) / num_words,
        "different stop words": len(STOP_WORDS.intersection(words)),
    }


def measure_fineweb(text: str) -> Measures:
    """Return the measures that `FINEWEB` bounds."""
    lines = _list_lines(text)
    num_lines = max(len(lines), 1)
    seen: set[str] = set()
    repeated = 0
    for line in lines:
        if line in seen:
            repeated += len(line)
        seen.add(line)
    short = sum(1 for line in lines if len(line) < SHORT_LINE_CHARACTERS)
    return {
        "share of lines that end a sentence": _count(lines, str.endswith, SENTENCE_ENDS)
        / num_lines,
        "share of lines below 30 characters": short / num_lines,
        "share of characters in repeated lines": repeated / max(sum(map(len, lines)), 1),
    }


def keep_sentences(text: str, count: CountRule) -> str | None:
    """Return the lines of a text that are sentences, as C4 keeps them, or None."""
    if "lorem ipsum" in text.lower():
        count("c4: lorem ipsum")
        return None
    if "{" in text:
        count("c4: curly bracket")
        return None
    kept = []
    lines = text.split("\n")
    for line in lines:
        mended = C4_CITATIONS.sub("", line).strip()
        if (
            mended.endswith(C4_ENDS)
            and not mended.endswith(ELLIPSES)
            and len(mended.split()) >= C4_WORDS_OF_LINE
            and not C4_UNWANTED_LINE.search(mended)
        ):
            kept.append(mended)
    sentences = sum(len(C4_SENTENCE_END.findall(line)) for line in kept)
    if sentences < C4_SENTENCES:
        count("c4: sentences", f"{sentences}, at least {C4_SENTENCES}")
        return None
    if len(kept) < len(lines):
        count("c4: lines removed", times=len(lines) - len(kept))
    return "\n".join(kept)


SETS: dict[QualityRules, tuple[Callable[[str], Measures], tuple[Bound, ...]]] = {
    QualityRules.GOPHER: (measure_gopher, GOPHER),
    QualityRules.GOPHER_REPETITION: (measure_repetition, GOPHER_REPETITION),
    QualityRules.FINEWEB: (measure_fineweb, FINEWEB),
}


def _list_lines(text: str) -> list[str]:
    return [line for line in map(str.strip, text.split("\n")) if line]


def _count(
    lines: list[str], is_so: Callable[[str, tuple[str, ...]], bool], ends: tuple[str, ...]
) -> int:
    return sum(1 for line in lines if is_so(line, ends))
