"""Changed copies of training documents, and documents whose middle comes last.

Below: `splits` for pieces, `synonyms`, `marks`. Above: `prepare`.

Swapping, deleting and replacing words is from Wei and Zou 2019 (EDA); moving the middle of a text
to its end, with prefix and suffix before it, from Bavarian et al. 2022 (Efficient Training of
Language Models to Fill in the Middle). All that is drawn follows from the seed and the document.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from llmtrain_api.shaping import Augment
from llmtrain_trainer.preparation.splits import Part, Piece
from llmtrain_trainer.preparation.synonyms import SYNONYMS
from llmtrain_trainer.preparation.tally import Tally
from llmtrain_trainer.tokenizer.marks import MARKS, MIDDLE, PREFIX, SUFFIX

WORDS_AND_SPACES = re.compile(r"\S+|\s+")
WORD = re.compile(r"(\W*)(\w(?:[\w'-]*\w)?)(.*)", re.DOTALL)
"""What stands before a word, the word, and what stands behind it."""

MIN_TYPO_LETTERS = 4
MIN_INFILL_CHARACTERS = 12
"""Shorter texts have no middle to speak of."""


def augment_pieces(pieces: Iterable[Piece], augment: Augment, tally: Tally) -> Iterator[Piece]:
    """Yield the pieces, each of training followed by its changed copies; count them in `tally`."""
    for piece in pieces:
        if piece.part is not Part.TRAIN or MARKS.search(piece.text):
            tally.count_text(piece.text, piece.text)
            yield piece
            continue
        name = piece.document.facts.id or piece.text
        texts = [piece.text]
        if changes_words(augment):
            copies = (
                change_text(piece.text, augment, make_draws(augment.seed, name, number))
                for number in range(1, augment.copies + 1)
            )
            # A copy that came out as another one would only repeat it.
            texts = list(dict.fromkeys([*texts, *(copy for copy in copies if copy.strip())]))
        place = piece.document.place
        for number, text in enumerate(texts):
            if number:
                tally.documents_in -= 1
                tally.characters_in -= len(text)
                tally.count_rule(place, "copy")
            draws = make_draws(augment.seed, name, -1 - number)
            written = text
            if draws.random() < augment.fill_in_middle:
                written = move_middle(text, draws)
                if written is not text:
                    tally.count_rule(place, "middle moved")
            tally.count_text(text, written)
            yield replace(piece, text=written)


def changes_words(augment: Augment) -> bool:
    """Return whether copies are made."""
    rates = (augment.swap, augment.delete, augment.synonym, augment.typo, augment.case)
    return any(rates) or bool(augment.templates)


def make_draws(seed: int, name: str, number: int) -> random.Random:
    """Return what draws for one copy of a document.

    Only its `random` is used, whose numbers no version of Python changes.
    """
    digest = hashlib.sha256(f"{seed} {number} {name}".encode()).digest()
    return random.Random(int.from_bytes(digest[:16]))


def change_text(text: str, augment: Augment, draws: random.Random) -> str:
    """Return a changed copy of a text."""
    parts = WORDS_AND_SPACES.findall(text)
    first = 0 if parts and not parts[0].isspace() else 1
    places = range(first, len(parts), 2)
    kept = list(parts)
    for place in places:
        kept[place] = _change_word(kept[place], augment, draws)
        if draws.random() < augment.swap and place + 2 < len(kept):
            kept[place], kept[place + 2] = kept[place + 2], kept[place]
    dropped = {place for place in places if draws.random() < augment.delete}
    if len(dropped) == len(places):
        dropped = set()
    # A word goes with the space before it, so that none are doubled.
    gone = dropped | {place - 1 for place in dropped}
    changed = "".join(part for place, part in enumerate(kept) if place not in gone)
    if first == 0:
        changed = changed.lstrip()
    if augment.templates:
        template = augment.templates[int(draws.random() * len(augment.templates))]
        changed = template.replace("{text}", changed)
    return changed


def move_middle(text: str, draws: random.Random) -> str:
    """Return a text as prefix, suffix and middle, each behind its mark; a short one as it is."""
    if len(text) < MIN_INFILL_CHARACTERS:
        return text
    cuts = sorted(int(draws.random() * (len(text) + 1)) for _ in range(2))
    prefix, middle, suffix = text[: cuts[0]], text[cuts[0] : cuts[1]], text[cuts[1] :]
    return f"{PREFIX}{prefix}{SUFFIX}{suffix}{MIDDLE}{middle}"


def _change_word(part: str, augment: Augment, draws: random.Random) -> str:
    match = WORD.fullmatch(part)
    if match is None:
        return part
    before, word, behind = match.groups()
    if draws.random() < augment.synonym and word.lower() in SYNONYMS:
        others = SYNONYMS[word.lower()]
        word = _copy_case(word, others[int(draws.random() * len(others))])
    if draws.random() < augment.typo and len(word) >= MIN_TYPO_LETTERS and word.isalpha():
        word = _mistype(word, draws)
    if draws.random() < augment.case:
        word = (str.upper, str.lower, str.capitalize)[int(draws.random() * 3)](word)
    return f"{before}{word}{behind}"


def _mistype(word: str, draws: random.Random) -> str:
    """Drop, double or move a letter that is not the first, which people rarely mistype."""
    place = 1 + int(draws.random() * (len(word) - 2))
    kind = int(draws.random() * 3)
    if kind == 0:
        return word[:place] + word[place + 1 :]
    if kind == 1:
        return word[: place + 1] + word[place:]
    return word[:place] + word[place + 1] + word[place] + word[place + 2 :]


def _copy_case(word: str, other: str) -> str:
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other
