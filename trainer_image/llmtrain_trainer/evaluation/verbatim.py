"""How much of what a model writes stands word for word in what it was trained on.

Below: the training split, mapped into memory. Above: `suites`.

The training text is read once, a few million tokens at a time, and each run of `SHORTEST` tokens
is looked up among those of the answers: by a hash of all positions at once, and by the tokens
themselves where a table has the hash. Runs that go on from one position to the next become longer
ones. Memory holds a chunk and the answers, whatever the size of the training text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from llmtrain_trainer.dataset.loading import Split

SHORTEST = 8
"""Tokens of the shortest overlap that is seen; shorter ones are everyday words."""

MEMORIZED = 50
"""Tokens of an overlap that counts as memorised (Carlini et al. 2023, arXiv:2202.07646; Lee et al.
2022, arXiv:2107.06499)."""

CHUNK_TOKENS = 4 * 1024 * 1024
"""Looked at at once: 32 MiB for each of the three arrays that that takes."""

TABLE_BITS = 22
"""4 MiB: of 60,000 runs of answers one position in seventy is looked at in vain."""

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""Of the hash; odd, so that no digit of a token is lost."""

Place = tuple[int, int]
"""An answer, and a position in it."""


def find_longest_overlaps(
    answers: Sequence[Sequence[int]], split: Split, *, chunk_tokens: int = CHUNK_TOKENS
) -> list[int]:
    """Return how many tokens in a row of each answer stand in the split, at most.

    Args:
        answers: tokens of each, without an end of text: so no overlap goes over the end of a
            document.
        split: what was trained on.
        chunk_tokens: how many are looked at at once.

    Returns:
        For each answer the length of its longest overlap, exactly; 0 where that is less than
        `SHORTEST`.
    """
    longest = [0] * len(answers)
    places: defaultdict[bytes, list[Place]] = defaultdict(list)
    for number, answer in enumerate(answers):
        tokens = np.asarray(answer, dtype=np.int64)
        for start in range(len(tokens) - SHORTEST + 1):
            places[tokens[start : start + SHORTEST].tobytes()].append((number, start))
    if not places:
        return longest
    runs = np.frombuffer(b"".join(places), dtype=np.int64).reshape(-1, SHORTEST)
    is_wanted = np.zeros(1 << TABLE_BITS, dtype=np.bool_)
    is_wanted[np.concatenate([hash_runs(run) for run in runs])] = True

    lengths: dict[Place, int] = {}
    """Of overlaps that end with the run at the position before."""
    previous = -1
    for start, chunk in _read_chunks(split, chunk_tokens):
        for offset in np.flatnonzero(is_wanted[hash_runs(chunk)]).tolist():
            if start + offset != previous + 1:
                lengths = {}
            previous = start + offset
            found = places.get(chunk[offset : offset + SHORTEST].tobytes(), [])
            lengths = {
                (number, place): lengths.get((number, place - 1), SHORTEST - 1) + 1
                for number, place in found
            }
            for (number, _), length in lengths.items():
                longest[number] = max(longest[number], length)
    return longest


def hash_runs(tokens: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return a hash, of `TABLE_BITS` bits, of the `SHORTEST` tokens from each position on."""
    words = tokens.astype(np.uint64)
    count = max(0, len(words) - SHORTEST + 1)
    hashes = np.zeros(count, dtype=np.uint64)
    for place in range(SHORTEST):
        hashes *= MULTIPLIER
        hashes += words[place : place + count]
    return hashes >> np.uint64(64 - TABLE_BITS)


def _read_chunks(split: Split, chunk_tokens: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield positions and tokens; each run of `SHORTEST` begins in one chunk and lies in it."""
    for start in range(0, split.num_tokens, chunk_tokens):
        count = min(chunk_tokens + SHORTEST - 1, split.num_tokens - start)
        yield start, split.read_tokens(start, count)
