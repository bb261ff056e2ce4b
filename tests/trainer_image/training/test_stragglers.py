"""Slow ranks: the rule by tables, and a real rank that is kept from the processor."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from llmtrain_trainer.training.stragglers import WINDOW_STEPS, Spread, StragglerWatch
from testbed.ranks import RunningRanks
from testbed.tiny_run import configure_tiny_run, prepare_tiny_run


class Story:
    """Steps of a second each, by a clock of its own."""

    def __init__(self, world_size: int) -> None:
        self.now = 0.0
        self.watch = StragglerWatch(world_size, clock=lambda: self.now)
        self.said: list[Spread] = []

    def step(self, *seconds: float, times: int = 1) -> None:
        for _ in range(times):
            self.now += 1.0
            spread = self.watch.hear(seconds)
            if spread is not None:
                self.said.append(spread)


def test_ratios_are_told_once_enough_steps_were_heard() -> None:
    story = Story(4)
    story.step(0.1, 0.1, 0.2, 0.1, times=WINDOW_STEPS - 1)
    assert story.said == []
    story.step(0.1, 0.1, 0.2, 0.1)
    assert story.said[0].ratios == pytest.approx((1, 1, 2, 1))
    assert (story.said[0].straggler, story.said[0].message) == (None, "")


def test_a_rank_that_is_slow_for_a_minute_is_named_until_it_is_not() -> None:
    story = Story(4)
    story.step(0.1, 0.1, 0.18, 0.1, times=120)
    assert story.said[-1].straggler == 2
    assert story.said[-1].message == (
        "rank 2 takes 1.8 times as long as the median rank (0.180 s against 0.100 s of a step), "
        "for 80 s"
    )
    story.step(0.1, 0.1, 0.1, 0.1, times=WINDOW_STEPS)
    assert story.said[-1].straggler is None


@pytest.mark.parametrize(
    "slow",
    [
        pytest.param([0.1, 0.12], id="a little slower"),
        pytest.param([0.1, 0.1], id="alike"),
        pytest.param([0.0, 0.0], id="not measured"),
    ],
)
def test_what_is_no_straggler(slow: list[float]) -> None:
    story = Story(2)
    story.step(*slow, times=200)
    assert all(spread.straggler is None for spread in story.said)


def test_hiccups_are_none() -> None:
    story = Story(2)
    for _ in range(60):
        story.step(0.1, 0.1, times=3)
        story.step(0.1, 5.0)
    assert all(spread.straggler is None for spread in story.said)


def test_ranks_that_are_slow_in_turns_are_none() -> None:
    story = Story(3)
    for _ in range(6):
        story.step(0.1, 0.3, 0.1, times=WINDOW_STEPS)
        story.step(0.1, 0.1, 0.3, times=WINDOW_STEPS)
    assert all(spread.straggler is None for spread in story.said)


def test_a_rank_that_is_kept_from_the_processor_is_the_one_that_is_slow(tmp_path: Path) -> None:
    """Stopped for nine tenths of the time, wherever in its steps that falls."""
    base = configure_tiny_run(tmp_path).training.dump()
    config = prepare_tiny_run(tmp_path, training={**base, "steps": 2000}, processes_per_worker=2)
    ranks = RunningRanks(config)
    ranks.watch(lambda: ranks.logs[1].step >= 1)
    done = threading.Event()
    victim = ranks.find_pid(1)

    def disturb() -> None:
        while not done.wait(0.01):
            os.kill(victim, signal.SIGSTOP)
            done.wait(0.09)
            os.kill(victim, signal.SIGCONT)

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        ranks.watch(lambda: len(ranks.logs[0].list_facts("straggler_ratio")) >= 4)
    finally:
        done.set()
        disturber.join()
        ranks.kill()
    fast, slow = (log.list_facts("straggler_ratio")[-1] for log in ranks.logs)
    assert fast == 1.0
    assert slow > 1.3
