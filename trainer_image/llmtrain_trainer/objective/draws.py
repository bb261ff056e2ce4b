"""Random numbers of a sample: a function of (seed, number of the sample) and of nothing else.

Below: numpy's Philox, a counter-based generator (Salmon et al. 2011, Parallel Random Numbers: As
Easy as 1, 2, 3), whose raw output numpy promises to keep. Above: `masking`, `spans`.

Only raw numbers are taken from numpy: what its `Generator` makes of them may change with its
version, and a resumed run may have another one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TRAINING, EVALUATION = 0, 1
"""Streams of numbers that never meet."""


class Draws:
    """The random numbers of one sample, one after the other."""

    def __init__(self, seed: int, number: int, *, is_training: bool, part: int = 0) -> None:
        """Begin with the first number of a sample, or of a `part` of it."""
        stream = TRAINING if is_training else EVALUATION
        self._bits = np.random.Philox(
            key=np.array([seed, number], dtype=np.uint64), counter=[0, 0, part, stream]
        )

    def draw_fractions(self, count: int) -> NDArray[np.float64]:
        """Return uniform numbers in [0, 1) [count]."""
        raw = self._bits.random_raw(count)
        return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def draw_order(self, count: int) -> NDArray[np.int64]:
        """Return a permutation of 0 … count - 1."""
        return np.argsort(self.draw_fractions(count), kind="stable")

    def draw_indices(self, count: int, limit: int) -> NDArray[np.int64]:
        """Return uniform whole numbers below `limit` [count]."""
        return (self.draw_fractions(count) * limit).astype(np.int64)
