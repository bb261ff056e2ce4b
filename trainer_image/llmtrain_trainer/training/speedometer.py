"""How fast steps are, and what share of their time and of the machine is used.

Above: `train`, which counts its steps here. `utilization` says how fast they could be.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

SMOOTHING = 0.9
"""Share of the known pace that stays when another step is counted: about ten steps speak."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast training is."""

    tokens_per_second: float
    """Of all ranks."""

    data_share: float
    """Share of a step's time in which this rank makes its batches; the GPU may be at work then."""

    utilization: float | None
    """Model FLOPs utilization, from 0 to 1; None: the machine's peak is not known."""


class Speedometer:
    """Measures steps, without the time of evaluations and checkpoints between them."""

    def __init__(
        self,
        *,
        peak_tokens_per_second: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Count steps by `clock`, which gives seconds.

        `peak_tokens_per_second` is what all devices could do at most, see `utilization`.
        """
        self._peak = peak_tokens_per_second
        self._clock = clock
        self._last: float | None = None
        self.pace: Pace | None = None
        """Smoothed; None until two steps have ended."""

    def count_step(self, tokens: float, data_seconds: float) -> Pace | None:
        """Count a step that has just ended; return the pace.

        Args:
            tokens: that all ranks read in it.
            data_seconds: of it that went into data.
        """
        now = self._clock()
        if self._last is not None and now > self._last:
            seconds = now - self._last
            rate, share = tokens / seconds, min(1.0, data_seconds / seconds)
            if self.pace is not None:
                rate = _smooth(self.pace.tokens_per_second, rate)
                share = _smooth(self.pace.data_share, share)
            self.pace = Pace(
                tokens_per_second=rate,
                data_share=share,
                utilization=None if self._peak is None else rate / self._peak,
            )
        self._last = now
        return self.pace

    def restart(self) -> None:
        """Forget when the last step ended: what came after it was no step."""
        self._last = None


def _smooth(known: float, new: float) -> float:
    return SMOOTHING * known + (1 - SMOOTHING) * new
