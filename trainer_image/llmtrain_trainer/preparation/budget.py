"""A budget of tokens for the training split, kept by the hash of its documents.

Below: `splits`. Above: `prepare`.

How many tokens a text has is known once it is encoded, which is most of the work. So the tokens of
all are estimated by a sample, documents above the share of the budget are never encoded, and those
that would exceed it all the same are left out.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from llmtrain_trainer.preparation.splits import Part, Piece, read_share
from llmtrain_trainer.preparation.tally import Tally

SAMPLE_CHARACTERS = 4_000_000
MARGIN = 1.01
"""So much more than the budget is encoded, since the estimate may be low."""

RULE = "above the budget of tokens"

CountTokens = Callable[[list[str]], int]
"""Returns the tokens of texts."""


class TokenBudget:
    """How much of the training split is still to be written."""

    def __init__(self, tokens: int, share: float) -> None:
        """Admit `tokens`, of documents whose hash is within a `share` of all hashes."""
        self._tokens = self._left = tokens
        self._share = share
        self.tally = Tally("budget")

    def choose(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Yield what is worth encoding: all but training documents above the share.

        The budget is whole again, and counted anew.
        """
        self._left, self.tally = self._tokens, Tally("budget")
        for piece in pieces:
            if piece.part is not Part.TRAIN or draw(piece) < self._share:
                yield piece
            else:
                self.tally.count_text(piece.text, None)
                self.tally.count_rule(piece.document.place, RULE)

    def admit(self, piece: Piece, num_tokens: int) -> bool:
        """Return whether a training piece of so many tokens is written; count it."""
        fits = num_tokens <= self._left
        self._left -= num_tokens if fits else 0
        self.tally.count_text(piece.text, piece.text if fits else None)
        if not fits:
            self.tally.count_rule(piece.document.place, RULE)
        return fits


def plan_budget(tokens: int, pieces: Iterable[Piece], count_tokens: CountTokens) -> TokenBudget:
    """Return a budget, its share estimated from the training pieces.

    Args:
        tokens: of the training split at most.
        pieces: all of them.
        count_tokens: of texts of a sample, end of text included.
    """
    draws, lengths = array("d"), array("d")
    sample: list[tuple[float, str]] = []
    sampled, bound = 0, 1.0
    for piece in pieces:
        if piece.part is not Part.TRAIN:
            continue
        number = draw(piece)
        draws.append(number)
        lengths.append(len(piece.text) * piece.copies)
        if number < bound:
            sample.append((number, piece.text))
            sampled += len(piece.text)
        if sampled > 2 * SAMPLE_CHARACTERS:
            # About a half stays, whatever the order in which documents come.
            bound /= 2
            sample = [entry for entry in sample if entry[0] < bound]
            sampled = sum(len(text) for _, text in sample)
    tokens_per_character = count_tokens([text for _, text in sample]) / max(sampled, 1)
    return TokenBudget(
        tokens,
        find_share(
            np.frombuffer(draws), np.frombuffer(lengths), MARGIN * tokens / tokens_per_character
        ),
    )


def find_share(draws: NDArray[np.float64], lengths: NDArray[np.float64], budget: float) -> float:
    """Return below which draw the documents are that are `budget` characters together."""
    order = np.argsort(draws, kind="stable")
    above = np.searchsorted(np.cumsum(lengths[order]), budget, side="right")
    return float(draws[order[above]]) if above < len(order) else 1.0


def draw(piece: Piece) -> float:
    """Return a number in [0, 1) that follows from a document and decides nothing else of it."""
    return read_share(hashlib.sha256(piece.document.text.encode()).digest()[24:])
