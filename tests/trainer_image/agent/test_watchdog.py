"""Who stands still, by tables of what ranks said and when."""

from __future__ import annotations

import pytest

from llmtrain_api.records import RankPhase
from llmtrain_trainer.agent.watchdog import (
    MIN_STEPS_MEASURED,
    SLACK_SECONDS,
    UNMEASURED_SECONDS,
    USUAL_FACTOR,
    Watchdog,
)
from llmtrain_trainer.progress import RankUpdate

STEP_SECONDS = 2.0
NUM_STEPS = MIN_STEPS_MEASURED * 3
LIMIT = USUAL_FACTOR * STEP_SECONDS + SLACK_SECONDS


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Story:
    """Two ranks that say things in turn."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.watchdog = Watchdog(self.clock)

    def say(self, phase: RankPhase, step: int, *ranks: int) -> None:
        for rank in ranks or (0, 1):
            self.watchdog.hear(
                RankUpdate(rank=rank, phase=phase, step=step, sent_at=self.clock.now)
            )

    def train(self, first: int, last: int, *, seconds: float = STEP_SECONDS) -> None:
        for step in range(first, last + 1):
            self.clock.now += seconds
            self.say(RankPhase.TRAINING, step)

    def wait(self, seconds: float) -> None:
        self.clock.now += seconds


@pytest.fixture
def story() -> Story:
    story = Story()
    story.watchdog.begin_round()
    story.say(RankPhase.TRAINING, 0)
    return story


def test_a_steady_run_is_left_alone(story: Story) -> None:
    story.train(1, 100)
    assert story.watchdog.find_stall() is None
    assert story.watchdog.find_limit(RankPhase.TRAINING) == LIMIT


def test_ranks_that_stand_still_are_named_the_first_silent_one_first(story: Story) -> None:
    story.train(1, NUM_STEPS)
    story.wait(1.0)
    story.say(RankPhase.TRAINING, NUM_STEPS + 1, 0)
    story.wait(LIMIT - 0.5)
    stall = story.watchdog.find_stall()
    assert stall is not None
    assert (stall.ranks, stall.step) == ((1,), NUM_STEPS)
    story.wait(1.0)
    stall = story.watchdog.find_stall()
    assert stall is not None
    assert stall.ranks == (1, 0)


def test_nobody_is_late_before_the_limit(story: Story) -> None:
    story.train(1, NUM_STEPS)
    story.wait(LIMIT - 0.01)
    assert story.watchdog.find_stall() is None
    assert story.watchdog.list_silent(SLACK_SECONDS) == (0, 1)


@pytest.mark.parametrize("steps", range(MIN_STEPS_MEASURED))
def test_the_first_steps_may_take_long(story: Story, steps: int) -> None:
    story.train(1, steps)
    story.wait(UNMEASURED_SECONDS / 2)
    assert story.watchdog.find_stall() is None
    story.wait(UNMEASURED_SECONDS)
    assert story.watchdog.find_stall() is not None


def test_the_first_steps_are_no_measure(story: Story) -> None:
    story.train(1, MIN_STEPS_MEASURED, seconds=100.0)
    story.train(MIN_STEPS_MEASURED + 1, NUM_STEPS)
    assert story.watchdog.find_limit(RankPhase.TRAINING) == LIMIT


def test_a_new_round_knows_what_was_learned_but_not_before_its_first_steps(story: Story) -> None:
    story.train(1, NUM_STEPS)
    story.watchdog.begin_round()
    story.wait(LIMIT * 2)
    assert story.watchdog.find_stall() is None
    story.say(RankPhase.TRAINING, 4)
    story.wait(LIMIT * 2)
    assert story.watchdog.find_stall() is None
    story.train(5, 4 + MIN_STEPS_MEASURED)
    story.wait(LIMIT * 2)
    assert story.watchdog.find_stall() is not None


def test_an_evaluation_is_measured_whole(story: Story) -> None:
    story.train(1, NUM_STEPS)
    story.say(RankPhase.EVALUATING, NUM_STEPS)
    story.wait(LIMIT * 2)
    assert story.watchdog.find_stall() is None
    story.say(RankPhase.TRAINING, NUM_STEPS)
    limit = story.watchdog.find_limit(RankPhase.EVALUATING)
    assert limit == USUAL_FACTOR * LIMIT * 2 + SLACK_SECONDS
    assert story.watchdog.find_limit(RankPhase.TRAINING) == LIMIT
    story.say(RankPhase.EVALUATING, NUM_STEPS)
    story.wait(limit + 0.1)
    assert story.watchdog.find_stall() is not None


def test_a_checkpoint_may_take_long_however_short_the_last_one_was(story: Story) -> None:
    story.train(1, NUM_STEPS)
    for _ in range(5):
        story.say(RankPhase.CHECKPOINTING, NUM_STEPS)
        story.wait(0.1)
        story.say(RankPhase.TRAINING, NUM_STEPS)
    story.say(RankPhase.CHECKPOINTING, NUM_STEPS)
    story.wait(LIMIT * 20)
    assert story.watchdog.find_stall() is None


def test_ranks_that_are_done_are_not_watched(story: Story) -> None:
    story.train(1, NUM_STEPS)
    story.say(RankPhase.FINISHED, NUM_STEPS)
    story.wait(UNMEASURED_SECONDS * 2)
    assert story.watchdog.find_stall() is None
