"""Which rank the others wait for: each one's own time of a step, against the median of all.

Below: the clocks of the processor or the GPU. Above: `training.step` measures, `train` tells.

Ranks of one step end it together, whoever was slow: the gradients' sum waits for all. So a rank's
own time is what passes from the begin of a step until its last backward pass begins, which reads
data and computes, and waits for nobody (with `fsdp` the layers' weights are gathered meanwhile,
and a slow rank slows them all: there the ratio says less). Each rank puts its time into a slot of
the numbers that are summed anyway, so that all know all times, a step late, for nothing.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

WINDOW_STEPS = 32
"""Of so many steps the median of a rank's times counts: a hiccup is no straggler."""
REPORT_EVERY_STEPS = 16
SLOW_RATIO = 1.3
"""A rank that takes so many times the median rank's time is slow."""
LONG_SECONDS = 60.0
"""One that is slow for so long is told of."""
MILLISECONDS = 1000.0
"""In a second."""


class StepClock:
    """A rank's own time of each step, and what of it goes into data."""

    def __init__(self, device: torch.device) -> None:
        """Measure on `device`: GPU work is timed where it runs, and never waited for."""
        self._is_cuda = device.type == "cuda"
        self._begun: float | torch.cuda.Event = 0.0
        self._under_way: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._seconds = 0.0
        self._data_seconds = 0.0

    def begin(self) -> None:
        """A step begins."""
        self._begun = self._take_moment()

    def reach_sync(self) -> None:
        """The last backward pass begins: from here on ranks wait for each other."""
        begun, ready = self._begun, self._take_moment()
        if isinstance(begun, torch.cuda.Event) and isinstance(ready, torch.cuda.Event):
            self._under_way.append((begun, ready))
        elif isinstance(begun, float) and isinstance(ready, float):
            self._seconds = ready - begun

    def read_seconds(self) -> float:
        """Return the newest step's own time that is known; 0 until there is one."""
        while self._under_way and self._under_way[0][1].query():
            begun, ready = self._under_way.popleft()
            self._seconds = begun.elapsed_time(ready) / MILLISECONDS
        return self._seconds

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count the time of a block, in which batches are made, as spent on data."""
        begun = time.perf_counter()
        yield
        self._data_seconds += time.perf_counter() - begun

    def take_data_seconds(self) -> float:
        """Return the time that went into data since this was asked last."""
        seconds, self._data_seconds = self._data_seconds, 0.0
        return seconds

    def _take_moment(self) -> float | torch.cuda.Event:
        if not self._is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How far the ranks' own times are apart."""

    ratios: tuple[float, ...]
    """Each rank's time, as a multiple of the median rank's."""

    straggler: int | None
    """The slowest rank, if it has been slow for long."""

    message: str
    """What is to be said of it; empty: nothing."""


class StragglerWatch:
    """Hears the own times of all ranks, step by step."""

    def __init__(self, world_size: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Watch so many ranks; `clock` gives seconds."""
        self._times: list[deque[float]] = [deque(maxlen=WINDOW_STEPS) for _ in range(world_size)]
        self._clock = clock
        self._heard = 0
        self._slow_since: tuple[int, float] | None = None

    def hear(self, seconds: Sequence[float]) -> Spread | None:
        """Take in a step's times, by rank; return how they spread, once in a while."""
        for times, value in zip(self._times, seconds, strict=True):
            times.append(value)
        self._heard += 1
        if self._heard < WINDOW_STEPS or self._heard % REPORT_EVERY_STEPS:
            return None
        usual = [statistics.median(times) for times in self._times]
        # Of two ranks the faster one is the measure.
        middle = statistics.median_low(usual)
        if len(usual) < 2 or middle <= 0:
            return None
        slowest = max(range(len(usual)), key=usual.__getitem__)
        straggler, message = None, ""
        slow_for = self._time_slow(slowest, usual[slowest] / middle)
        if slow_for is not None and slow_for >= LONG_SECONDS:
            straggler = slowest
            message = (
                f"rank {slowest} takes {usual[slowest] / middle:.1f} times as long as the median "
                f"rank ({usual[slowest]:.3f} s against {middle:.3f} s of a step), for "
                f"{slow_for:.0f} s"
            )
        ratios = tuple(value / middle for value in usual)
        return Spread(ratios=ratios, straggler=straggler, message=message)

    def _time_slow(self, rank: int, ratio: float) -> float | None:
        """Return for how long a rank has been slow; None where it is not."""
        now = self._clock()
        if ratio < SLOW_RATIO:
            self._slow_since = None
            return None
        if self._slow_since is None or self._slow_since[0] != rank:
            self._slow_since = (rank, now)
        return now - self._slow_since[1]
