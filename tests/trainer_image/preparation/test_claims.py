"""Claims and signs of life, on a folder and by a clock of the test's own."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from llmtrain_trainer.preparation.claims import ALIVE, Claims, LifeWatch, Pace, show_life
from llmtrain_trainer.preparation.team import Place, Team, name_unit, sweep_work
from llmtrain_trainer.store import Store
from llmtrain_trainer.store.folder import FolderStore

PACE = Pace(beat_seconds=0.01, dead_seconds=60.0, poll_seconds=1.0)


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return FolderStore(tmp_path, "bucket", "dataset")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def beat(store: Store, name: str, mark: str) -> None:
    store.write_bytes(f"{ALIVE}{name}", mark.encode())


def test_a_claim_is_its_holders_until_that_one_is_dead(store: Store, clock: Clock) -> None:
    claims = Claims(store, LifeWatch(store, PACE, clock))
    beat(store, "a/0", "1")
    assert claims.take("read/000000", "a/0")
    assert claims.take("read/000000", "a/0")
    assert not claims.take("read/000000", "b/0")

    clock.now = 59.0
    assert not claims.take("read/000000", "b/0")
    beat(store, "a/0", "22")
    clock.now = 61.0
    assert not claims.take("read/000000", "b/0")  # it was seen to live now
    clock.now = 122.0
    assert claims.take("read/000000", "b/0")
    assert claims.take("read/000000", "b/0")
    beat(store, "b/0", "1")
    clock.now = 124.0
    assert not claims.take("read/000000", "a/0")  # that was only slow


def test_who_took_leave_is_dead_at_once(store: Store, clock: Clock) -> None:
    claims = Claims(store, LifeWatch(store, PACE, clock))
    with show_life(store, "a/0", PACE):
        assert claims.take("dataset", "a")
        assert not claims.take("dataset", "b")
    clock.now = 1.0
    assert claims.take("dataset", "b")


def test_a_run_lives_as_long_as_one_of_its_tasks(store: Store, clock: Clock) -> None:
    watch = LifeWatch(store, PACE, clock)
    beat(store, "a/0", "1")
    beat(store, "a/1", "1")
    beat(store, "ab/0", "1")
    assert watch.is_alive("a")
    for now in (50.0, 100.0):
        clock.now = now
        beat(store, "a/1", f"at {now}")
        assert watch.is_alive("a")
    assert watch.is_alive("a/1")
    assert not watch.is_alive("a/0")
    assert not watch.is_alive("ab")
    assert not watch.is_alive("b")


def test_signs_of_life_change(store: Store) -> None:
    with show_life(store, "a/0", PACE):
        seen = {store.read_bytes(f"{ALIVE}a/0")}
        while len(seen) < 3:
            seen.add(store.read_bytes(f"{ALIVE}a/0"))
    assert list(store.list_objects()) == []


def test_units_are_begun_by_their_number_and_done_once(store: Store) -> None:
    done: list[tuple[int, int]] = []

    def work_as(task: int, units: range) -> bool:
        team = Team(store, Place(run="a", task=task, num_tasks=2), PACE, lambda: None)

        def work(unit: int) -> None:
            done.append((task, unit))
            team.put("read", unit, b"what it left")

        return team.work_at("read", units, work)

    for task in (0, 1):
        beat(store, f"a/{task}", "1")
    assert work_as(1, range(4))
    assert done == [(1, 1), (1, 3), (1, 0), (1, 2)]
    assert not work_as(0, range(4))
    assert work_as(0, range(5))
    assert done[-1] == (0, 4)
    assert Team(store, Place(run="a"), PACE, lambda: None).list_done("read") == set(range(5))
    assert sweep_work(store) == 2 * 5 + 5 + 2
    assert list(store.list_objects()) == []


def test_two_units_are_done_at_once_and_the_first_failure_is_told(store: Store) -> None:
    team = Team(store, Place(run="a"), PACE, lambda: None)
    both, second_failed = threading.Barrier(2, timeout=20), threading.Event()

    def work(unit: int) -> None:
        both.wait()
        if unit == 3:
            second_failed.set()
            raise ValueError("unit 3")
        if unit == 2:
            assert second_failed.wait(20)
            raise ValueError("unit 2")
        team.put_record(f"{name_unit('read', unit)}.done")

    with pytest.raises(ValueError, match="unit 2"):
        team.work_at("read", range(6), work, at_once=2)
    assert team.list_done("read") == {0, 1}
