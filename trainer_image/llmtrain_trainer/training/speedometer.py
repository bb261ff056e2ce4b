"""Training tokens per second.

Above: `train`, which counts its steps here.
"""

from __future__ import annotations

import time
from collections.abc import Callable

SMOOTHING = 0.9
"""Share of the known rate that stays when another step is counted: about ten steps speak."""


class Speedometer:
    """Measures steps, without the time of evaluations and checkpoints between them."""

    def __init__(
        self, *, tokens_per_step: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Count steps of so many tokens over all ranks; `clock` gives seconds."""
        self._tokens_per_step = tokens_per_step
        self._clock = clock
        self._last: float | None = None
        self.rate: float | None = None
        """Tokens per second, smoothed; None until two steps have ended."""

    def count_step(self) -> float | None:
        """Count a step that has just ended; return the rate."""
        now = self._clock()
        if self._last is not None and now > self._last:
            rate = self._tokens_per_step / (now - self._last)
            known = rate if self.rate is None else self.rate
            self.rate = SMOOTHING * known + (1 - SMOOTHING) * rate
        self._last = now
        return self.rate

    def restart(self) -> None:
        """Forget when the last step ended: what came after it was no step."""
        self._last = None
