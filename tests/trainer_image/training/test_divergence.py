"""Losses that run away: the rule by tables, going back and skipping by real ranks."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from llmtrain_api.run import RunConfig
from llmtrain_api.training import DivergenceSpec
from llmtrain_trainer.failures import DivergedError, RolledBackError
from llmtrain_trainer.store import open_store
from llmtrain_trainer.training.divergence import (
    Divergence,
    LossWatch,
    Rollback,
    RollbackHistory,
    choose_checkpoint,
    read_history,
    roll_back,
)
from testbed.ranks import RankLog, RunningRanks, run_ranks
from testbed.tiny_run import configure_tiny_run, prepare_tiny_run

SPEC = DivergenceSpec(spike_steps=3)
CALM = [2.0 + 0.01 * random.Random(step).gauss(0, 1) for step in range(60)]


def hear(losses: list[float], spec: DivergenceSpec = SPEC) -> list[Divergence]:
    watch = LossWatch(spec)
    heard = [watch.hear(step, loss, 1.0) for step, loss in enumerate(losses, start=1)]
    return [divergence for divergence in heard if divergence is not None]


@pytest.mark.parametrize(
    ("losses", "steps"),
    [
        (CALM, []),
        # The usual way of a loss: fast at first.
        ([8.0 * 0.93**step + 2.0 for step in range(200)], []),
        # A jump that stays is one spike, certain at its third step.
        ([*CALM, *[4.0] * 40], [(61, 63)]),
        # Two steps are too few, twice.
        ([*CALM, 4.0, 4.0, *CALM, 4.0, 4.0, *CALM], []),
        # Small, though far above noise that hardly is.
        ([*[2.0] * 60, *[2.1] * 10], []),
        ([*[2.0] * 60, *[2.3] * 10], [(61, 63)]),
        # Two spikes with calm in between are two.
        ([*CALM, *[4.0] * 5, *CALM, *[4.0] * 5], [(61, 63), (126, 128)]),
        # Too early to tell.
        ([*[2.0] * 20, *[9.0] * 3], []),
    ],
)
def test_spikes(losses: list[float], steps: list[tuple[int, int]]) -> None:
    assert [(d.first_step, d.step) for d in hear(losses)] == steps


@pytest.mark.parametrize(("loss", "norm"), [(float("nan"), 1.0), (2.0, float("inf"))])
def test_numbers_that_are_not_finite_are_certain_at_once(loss: float, norm: float) -> None:
    divergence = LossWatch(SPEC).hear(7, loss, norm)
    assert divergence is not None
    assert (divergence.reason, divergence.step) == ("LossNotFinite", 7)


def test_a_resumed_run_goes_on_watching_where_it_was() -> None:
    straight = LossWatch(SPEC)
    for step, loss in enumerate(CALM, start=1):
        straight.hear(step, loss, 1.0)
    assert LossWatch(SPEC, CALM).find_limit() == straight.find_limit() is not None


def test_losses_that_look_bad_at_the_end_are_taken_for_bad() -> None:
    watch = LossWatch(SPEC, CALM)
    assert watch.hear(61, 4.0, 1.0) is None
    assert watch.is_suspicious
    divergence = watch.conclude()
    assert divergence is not None
    assert (divergence.first_step, divergence.reason) == (61, "LossSpike")


@pytest.mark.parametrize(
    ("steps", "first_bad", "chosen"),
    [
        ([], 50, 0),
        ([60], 50, 0),
        ([40], 50, 40),
        ([20, 40], 50, 40),
        # Right before what shows the damage, it may be done already.
        ([20, 40, 49], 50, 40),
        ([49], 50, 49),
    ],
)
def test_the_checkpoint_to_go_back_to(steps: list[int], first_bad: int, chosen: int) -> None:
    assert choose_checkpoint(steps, first_bad, 5) == chosen


def skip(*ranges: tuple[int, int]) -> RollbackHistory:
    return RollbackHistory(
        rollbacks=[
            Rollback(step=0, detected_step=1, first_batch=a, last_batch=b, message="")
            for a, b in ranges
        ]
    )


@pytest.mark.parametrize(
    ("history", "batches"),
    [
        (skip(), [0, 1, 2, 3, 4, 5]),
        (skip((2, 3)), [0, 1, 4, 5, 6, 7]),
        (skip((0, 0)), [1, 2, 3, 4, 5, 6]),
        (skip((2, 3), (4, 4)), [0, 1, 5, 6, 7, 8]),
        (skip((4, 4), (1, 2)), [0, 3, 5, 6, 7, 8]),
        (skip((1, 4), (2, 3)), [0, 5, 6, 7, 8, 9]),
    ],
)
def test_a_step_takes_the_next_batch_that_is_not_skipped(
    history: RollbackHistory, batches: list[int]
) -> None:
    assert [history.find_batch(step) for step in range(1, 7)] == batches


def test_a_second_rollback_skips_what_was_taken_since_the_first() -> None:
    first = Divergence(first_step=108, step=110, message="", reason="LossSpike")
    history = RollbackHistory().add(first, 100)
    assert (history.find_batch(100), history.find_batch(101)) == (99, 110)
    again = Divergence(first_step=105, step=105, message="", reason="LossSpike")
    # Farther back than before: what was bad then stays out.
    history = history.add(again, 80)
    assert (history.find_batch(80), history.find_batch(81)) == (79, 115)
    assert history.count_skipped() == 35


GARBAGE_AT = 5000
STEPS = 72
SKIPPING = {"action": "rollback", "spikeSteps": 1, "spikeDeviations": 4, "maxRollbacks": 3}


def prepare_bad_text(root: Path, run: str, divergence: dict[str, Any], **more: Any) -> RunConfig:
    """A run over text that a model soon knows by heart, but for a piece of garbage."""
    source = root / "tiny-bucket" / "topics.txt"
    if not source.exists():
        source.parent.mkdir(parents=True)
        text = "abcdefgh" * 3000
        noise = "".join(random.Random(1).choices("ijklmnopqrstuvwxyz0123456789", k=100))
        source.write_text(text[:GARBAGE_AT] + noise + text[GARBAGE_AT:], encoding="utf-8")
    base = configure_tiny_run(root).training.dump()
    training = {**base, "steps": STEPS, "divergence": divergence}
    return prepare_tiny_run(root, run=run, training=training, **more)


def run_to_the_end(config: RunConfig) -> tuple[list[RankLog], int]:
    """Run round after round, as agents do; return what rank 0 said in each."""
    logs: list[RankLog] = []
    while True:
        ranks = RunningRanks(config, round_number=len(logs) + 1)
        try:
            ranks.finish()
        except RolledBackError:
            logs.append(ranks.logs[0])
            continue
        return [*logs, ranks.logs[0]], len(logs)


@pytest.mark.parametrize("world", [{}, {"processes_per_worker": 2}])
@pytest.mark.fault(20, world="ranks")
def test_a_bad_batch_is_left_behind_and_the_run_stays_exact(
    tmp_path: Path, world: dict[str, int]
) -> None:
    config = prepare_bad_text(tmp_path, "bad", SKIPPING, **world)
    logs, rollbacks = run_to_the_end(config)
    assert rollbacks >= 1
    store = open_store(config.run_uri, config.storage)
    history = read_history(store)
    assert len(history.rollbacks) == rollbacks
    losses = logs[-1].list_facts("loss")
    assert max(losses) < 0.5, "the bad batch was taken after all"
    assert logs[-1].list_facts("skipped_batches") == [history.count_skipped()]

    # A run that knows from the start what to leave out takes the same steps.
    knowing = prepare_bad_text(tmp_path, "knowing", SKIPPING, **world)
    open_store(knowing.run_uri, knowing.storage).write_bytes(
        "divergence.json", history.model_dump_json(by_alias=True).encode()
    )
    straight = run_ranks(knowing).list_facts("loss")
    assert straight[-len(losses) :] == losses


def test_a_spike_is_only_counted_where_the_policy_is_to_stop(tmp_path: Path) -> None:
    config = prepare_bad_text(tmp_path, "bad", {**SKIPPING, "action": "stop"})
    log = run_ranks(config)
    assert log.list_facts("loss_spikes")[0] == 1
    assert log.step == STEPS


def test_too_many_rollbacks_end_the_run_and_change_nothing(tmp_path: Path) -> None:
    config = prepare_bad_text(tmp_path, "bad", SKIPPING)
    store = open_store(config.run_uri, config.storage)
    divergence = Divergence(first_step=9, step=9, message="the loss is nan", reason="x")
    with pytest.raises(DivergedError, match=r"after 3 rollbacks \(training.divergence.maxRoll"):
        roll_back(store, skip((0, 0), (1, 1), (2, 2)), divergence, config.training.divergence)
    assert read_history(store) == RollbackHistory()
