"""When a save is due: after so many steps, so many minutes, or as it pays best.

Below: the spec. Above: `train` asks after each step. What depends on a clock is rank 0's to say,
and reaches the others with the numbers of a step.

`auto` is the interval of Young (1974) and Daly (2006), √(2 · cost of a save · time between
failures): longer ones lose more steps to a failure than they spare, shorter ones cost more than
they save. Both are measured as the run goes on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from llmtrain_api.checkpoint import DEFAULT_EVERY_STEPS, CheckpointSpec

EXPECTED_SECONDS_BETWEEN_FAILURES = 24 * 3600.0
"""What is taken for true of a run of which nothing is known yet, as if seen once."""

FIRST_INTERVAL_SECONDS = 60.0
"""Until the first save has shown what one costs."""

MAX_INTERVAL_SECONDS = 1800.0
"""However rare failures are: people stop runs, too."""


class SaveSchedule:
    """When rank 0 wishes to save."""

    def __init__(
        self,
        spec: CheckpointSpec,
        *,
        interruptions: int,
        run_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin a round.

        Args:
            spec: what the job asks for.
            interruptions: how often the run's ranks had to be started anew.
            run_seconds: how long the run had worked before this round.
            clock: seconds, from anywhere.
        """
        self._spec = spec
        self._interruptions = interruptions
        self._run_seconds = run_seconds
        self._clock = clock
        self._begun_at = self._saved_at = clock()
        self._cost_seconds: float | None = None
        self._duration_seconds = 0.0

    @property
    def run_seconds(self) -> float:
        """How long the run has worked, over all rounds."""
        return self._run_seconds + self._clock() - self._begun_at

    @property
    def interval_seconds(self) -> float | None:
        """Seconds between saves; None where steps are counted instead."""
        if self._spec.every_minutes is not None:
            return self._spec.every_minutes * 60.0
        if not self._spec.auto:
            return None
        if self._cost_seconds is None:
            return FIRST_INTERVAL_SECONDS
        between = (EXPECTED_SECONDS_BETWEEN_FAILURES + self.run_seconds) / (1 + self._interruptions)
        best = math.sqrt(2.0 * self._cost_seconds * between)
        # One that is still on its way would have the next one skipped.
        return max(min(best, MAX_INTERVAL_SECONDS), self._duration_seconds)

    def is_step_due(self, step: int) -> bool:
        """Whether the number of a step says so, which every rank knows."""
        if self.interval_seconds is not None:
            return False
        return step % (self._spec.every_steps or DEFAULT_EVERY_STEPS) == 0

    def is_time_due(self) -> bool:
        """Whether the clock of this rank says so."""
        interval = self.interval_seconds
        return interval is not None and self._clock() - self._saved_at >= interval

    def note_begun(self, cost_seconds: float) -> None:
        """A save was begun, and training waited so long for it."""
        self._saved_at = self._clock()
        self._cost_seconds = cost_seconds

    def note_committed(self) -> None:
        """The newest save is a checkpoint now."""
        self._duration_seconds = self._clock() - self._saved_at
