"""The checkable facts of a text: its dates, its numbers and its names.

Below: nothing. Above: `consistency` compares those of an answer with those of its source.

Everything goes by form. A date is one of English; a number is digits or an English word; a name is
a run of words with capitals, so that languages which write all nouns so have too many.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_MONTH = rf"(?P<month>{'|'.join(f'{name}|{name[:3]}' for name in MONTHS)}|sept)\.?"
_DAY = r"(?P<day>[0-3]?[0-9])(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>[12][0-9]{3})"
_DATES = tuple(
    re.compile(rf"\b{form}\b", re.IGNORECASE)
    for form in (
        r"(?P<year>[12][0-9]{3})-(?P<number>[01][0-9])-(?P<day>[0-3][0-9])",
        rf"{_DAY}\s+(?:of\s+)?{_MONTH}(?:,?\s+{_YEAR})?",
        rf"{_MONTH}\s+{_DAY}(?:,?\s+{_YEAR})?",
        rf"{_MONTH}\s+{_YEAR}",
    )
)

_UNITS = re.findall(
    r"\w+",
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen",
)
_TENS = re.findall(r"\w+", "twenty thirty forty fifty sixty seventy eighty ninety")
_WORD_VALUES = {word: value for value, word in enumerate(_UNITS)} | {
    word: 10 * value for value, word in enumerate(_TENS, start=2)
}
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_NUMBER = re.compile(
    rf"(?<![\w.])(?P<digits>[0-9]+(?:[.,'\u00a0\u202f][0-9]+)*)(?P<suffix>[a-z]*)"
    rf"|\b(?P<word>{'|'.join([*_TENS, *_UNITS, 'a'])})(?:-(?P<unit>{'|'.join(_UNITS[1:10])}))?\b",
    re.IGNORECASE,
)
_SCALE = re.compile(rf"[\s-]+({'|'.join(_SCALES)})\b", re.IGNORECASE)
_THOUSANDS = re.compile(r"[0-9]{1,3}(?:[,'\u00a0\u202f][0-9]{3})+(?:\.[0-9]+)?")

_WORD = re.compile(r"[^\W\d_][\w’'-]*(?:\.[^\W\d_]\b)*")
_SENTENCE_END = re.compile(r"[.!?:][\"'”’)]*\s+|\n+")
_INITIAL = re.compile(r"(?:^|\s)(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St)\.\s+$")
INITIAL_CHARACTERS = 6
"""An initial or a title, and what is before it."""

CONNECTORS = frozenset({"of", "de", "del", "di", "da", "van", "von", "der", "la", "le"})
"""Small words within a name."""

FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a after all also although an and are as at because before both but by during each even "
        "every few finally first following for from he her here his how however i if in is it its "
        "later many meanwhile most mr mrs ms dr my no not now on once one only or other our prof "
        "she since so some such that the their then there these they this those though to today "
        "under until was we were what when where which while who why with yes yet you your",
    )
)
"""Words that have a capital at the beginning of a sentence only, and titles."""


class FactKind(StrEnum):
    """What can be checked by its form."""

    DATE = "date"
    NUMBER = "number"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class Date:
    """A day, or a month of a year, as far as it is given."""

    text: str
    year: int | None
    month: int
    day: int | None


@dataclass(frozen=True, slots=True)
class Number:
    """A quantity."""

    text: str
    value: Decimal
    digits: int
    """Significant ones, zeros at the end of a whole number not counted."""


@dataclass(frozen=True, slots=True)
class Name:
    """A run of words with capitals."""

    text: str
    words: tuple[str, ...]
    """In small letters, without connectors and 's."""

    begins_sentence: bool
    """Whether its first word would have a capital anyway."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a text states."""

    dates: tuple[Date, ...]
    numbers: tuple[Number, ...]
    names: tuple[Name, ...]


def extract_facts(text: str) -> Facts:
    """Return the dates, numbers and names of a text, each in its order."""
    dates: list[Date] = []
    for form in _DATES:
        dates += [_read_date(match) for match in form.finditer(text)]
        # What is a date is neither a number nor a name besides.
        text = form.sub(lambda match: "." * len(match[0]), text)
    numbers = tuple(_find_numbers(text))
    return Facts(dates=tuple(dates), numbers=numbers, names=tuple(_find_names(text)))


def list_words(text: str) -> list[str]:
    """Return the words of a text in small letters, without possessives."""
    return [_simplify(match[0]) for match in _WORD.finditer(text)]


def _read_date(match: re.Match[str]) -> Date:
    parts = match.groupdict()
    if parts.get("number"):
        month = int(parts["number"])
    else:
        short = parts["month"].lower()[:3]
        month = next(i for i, name in enumerate(MONTHS, start=1) if name.startswith(short))
    year, day = parts.get("year"), parts.get("day")
    return Date(match[0], int(year) if year else None, month, int(day) if day else None)


def _find_numbers(text: str) -> Iterator[Number]:
    for match in _NUMBER.finditer(text):
        scale = _SCALE.match(text, match.end())
        factor = _SCALES[scale[1].lower()] if scale is not None else 1
        if match["digits"] is not None:
            value = _read_digits(match["digits"])
            if match["suffix"].lower() not in ("", "st", "nd", "rd", "th", "s"):
                continue  # part of a name, as 4x4 or 3D
        else:
            word = match["word"].lower()
            if word == "a" and scale is None:
                continue
            value = Decimal(_WORD_VALUES.get(word, 1))
            if match["unit"] is not None:
                value += _WORD_VALUES[match["unit"].lower()]
        shown = match[0] + (scale[0] if scale is not None else "")
        yield Number(shown, value * factor, _count_digits(value))


def _count_digits(value: Decimal) -> int:
    """Count the significant digits: those of 8.0 are two, and of 8000 one."""
    is_whole = value == value.to_integral_value() and "." not in str(value)
    return len((value.normalize() if is_whole else value).as_tuple().digits)


def _read_digits(digits: str) -> Decimal:
    """Read 1,234.5 and 1'234 by their thousands, and 3,5 by its decimal comma."""
    if _THOUSANDS.fullmatch(digits):
        return Decimal(re.sub(r"[,'\u00a0\u202f]", "", digits))
    plain = re.sub(r"['\u00a0\u202f]", "", digits).replace(",", ".")
    whole, _, fraction = plain.rpartition(".")
    return Decimal(f"{whole.replace('.', '')}.{fraction}" if whole else plain)


def _find_names(text: str) -> Iterator[Name]:
    starts = [0] + [
        match.end()
        for match in _SENTENCE_END.finditer(text)
        if not _INITIAL.search(text, max(0, match.start() - INITIAL_CHARACTERS), match.end())
    ]
    run: list[re.Match[str]] = []
    for match in [*_WORD.finditer(text), None]:
        if match is not None and run:
            gap = text[run[-1].end() : match.start()]
            is_first = starts[bisect_right(starts, match.start()) - 1] == match.start()
            is_joined = gap in (" ", ". ", "-") and not is_first
            if is_joined and (_has_capital(match[0]) or match[0] in CONNECTORS):
                run.append(match)
                continue
        yield from _close(run, text, starts)
        run = [match] if match is not None and _has_capital(match[0]) else []


def _close(run: list[re.Match[str]], text: str, starts: list[int]) -> Iterator[Name]:
    while run and run[-1][0] in CONNECTORS:
        run = run[:-1]
    if not run:
        return
    start = starts[bisect_right(starts, run[0].start()) - 1]
    begins = _WORD.search(text, start, run[0].start()) is None
    while run and _simplify(run[0][0]) in FUNCTION_WORDS:
        run, begins = run[1:], False
    words = tuple(word for match in run if (word := _simplify(match[0])) not in CONNECTORS)
    if words:
        yield Name(text[run[0].start() : run[-1].end()], words, begins)


def _has_capital(word: str) -> bool:
    return word[0].isupper()


def _simplify(word: str) -> str:
    return re.sub(r"['’]s?$", "", word.lower())
