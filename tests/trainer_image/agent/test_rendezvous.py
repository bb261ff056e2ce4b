"""Rounds as the leader decides them, report by report, and in random histories."""

from __future__ import annotations

import random

import pytest

from llmtrain_trainer.agent.rendezvous import (
    Leader,
    MemberReport,
    MemberState,
    RoundPhase,
    SupersededError,
)
from llmtrain_trainer.rank_group import ROUNDS_PER_INCARNATION, count_starts

LEASE = 10.0
IDLE, RUNNING, FINISHED, DRAINED, LEFT = MemberState
GATHERING, UNDER_WAY, COMPLETE = RoundPhase


def make_leader(replicas: int = 2, *, incarnation: int = 0) -> Leader:
    return Leader(replicas=replicas, boot="boot", incarnation=incarnation, lease_seconds=LEASE)


class Worker:
    """What one worker tells a leader, with its numbers kept right."""

    def __init__(self, leader: Leader, index: int, incarnation: int = 0) -> None:
        self.leader = leader
        self.report = MemberReport(index=index, incarnation=incarnation)

    def tell(self, state: MemberState, round_number: int = 0, *, now: float = 0.0) -> None:
        update = {
            "state": state,
            "round": round_number,
            "sequence": self.report.sequence + 1,
        }
        self.report = self.report.model_copy(update=update)
        self.leader.hear(self.report, now)


def begin(leader: Leader, replicas: int = 2) -> tuple[int, list[Worker]]:
    """Let all workers come and run the first round; returns its number."""
    workers = [Worker(leader, index) for index in range(replicas)]
    for worker in workers:
        worker.tell(IDLE)
    number = leader.view.round
    for worker in workers:
        worker.tell(RUNNING, number)
    return number, workers


def test_a_round_begins_when_the_last_worker_has_come() -> None:
    leader = make_leader(3)
    workers = [Worker(leader, index) for index in range(3)]
    workers[0].tell(IDLE)
    workers[2].tell(IDLE)
    assert leader.view.phase is GATHERING
    assert list(leader.view.missing) == [1]
    workers[1].tell(IDLE)
    view = leader.view
    assert (view.phase, view.round, view.store_port) == (UNDER_WAY, 1, None)


def test_the_store_belongs_to_its_round() -> None:
    leader = make_leader()
    number, workers = begin(leader)
    ports = []
    for published in (number - 1, number):
        leader.publish_store(published, 1234)
        ports.append(leader.view.store_port)
    workers[1].tell(IDLE, number)
    ports.append(leader.view.store_port)
    leader.publish_store(number, 1234)
    ports.append(leader.view.store_port)
    assert ports == [None, 1234, None, None]


@pytest.mark.parametrize(
    ("states", "phase"),
    [
        ((RUNNING, FINISHED), UNDER_WAY),
        ((FINISHED, FINISHED), COMPLETE),
        ((DRAINED, RUNNING), UNDER_WAY),
        ((DRAINED, DRAINED), GATHERING),
        ((FINISHED, DRAINED), GATHERING),
        ((RUNNING, IDLE), GATHERING),
        ((FINISHED, IDLE), GATHERING),
        ((RUNNING, LEFT), GATHERING),
        ((LEFT, RUNNING), GATHERING),
    ],
)
def test_what_workers_say_decides_a_round(
    states: tuple[MemberState, MemberState], phase: RoundPhase
) -> None:
    leader = make_leader()
    number, workers = begin(leader)
    for worker, state in zip(workers, states, strict=True):
        worker.tell(state, number)
    assert leader.view.phase is phase


def test_a_lost_round_is_followed_when_all_have_noticed() -> None:
    leader = make_leader()
    number, workers = begin(leader)
    workers[1].tell(IDLE, number)
    assert (leader.view.phase, leader.view.missing) == (GATHERING, (0,))
    workers[0].tell(IDLE, number)
    assert (leader.view.phase, leader.view.round) == (UNDER_WAY, number + 1)


def test_an_idle_report_of_an_earlier_round_loses_nothing() -> None:
    leader = make_leader()
    workers = [Worker(leader, index) for index in range(2)]
    for worker in workers:
        worker.tell(IDLE)
    # The answer to this report is what tells the worker that the round has begun.
    workers[1].tell(IDLE)
    assert leader.view.phase is UNDER_WAY


def test_a_new_incarnation_ends_the_round_and_the_old_one_is_refused() -> None:
    leader = make_leader()
    number, workers = begin(leader)
    replacement = Worker(leader, 1, incarnation=1)
    replacement.tell(IDLE)
    assert leader.view.phase is GATHERING
    with pytest.raises(SupersededError, match="worker 1 has been replaced"):
        workers[1].tell(RUNNING, number)
    workers[0].tell(IDLE, number)
    assert (leader.view.phase, leader.view.round) == (UNDER_WAY, number + 1)


def test_a_report_that_was_overtaken_counts_no_more() -> None:
    leader = make_leader()
    number, workers = begin(leader)
    overtaken = workers[1].report
    for worker in workers:
        worker.tell(FINISHED, number)
    leader.hear(overtaken, 0.0)
    assert leader.view.phase is COMPLETE


def test_a_silent_worker_is_given_up_after_the_lease() -> None:
    leader = make_leader()
    number, workers = begin(leader)
    workers[0].tell(RUNNING, number, now=LEASE)
    leader.expire(LEASE)
    assert leader.view.phase is UNDER_WAY
    leader.expire(LEASE + 0.1)
    assert (leader.view.phase, leader.view.missing) == (GATHERING, (0, 1))
    assert leader.has_left(1)


def test_a_replaced_leader_counts_on() -> None:
    number, _ = begin(make_leader())
    leader = make_leader(incarnation=1)
    next_number, _ = begin(leader)
    assert next_number == ROUNDS_PER_INCARNATION + 1 > number

    # The one before it needed more rounds than it had to itself: the workers know.
    leader = make_leader(incarnation=1)
    worker = Worker(leader, 1)
    worker.tell(RUNNING, 2 * ROUNDS_PER_INCARNATION)
    worker.tell(IDLE, 2 * ROUNDS_PER_INCARNATION)
    Worker(leader, 0, incarnation=1).tell(IDLE)
    assert leader.view.round == 2 * ROUNDS_PER_INCARNATION + 1


def test_an_index_beyond_the_workers_is_named() -> None:
    with pytest.raises(ValueError, match="index 2: the run has 2 workers"):
        Worker(make_leader(), 2).tell(IDLE)


def test_leave_is_noticed_once_all_is_done() -> None:
    leader = make_leader()
    number, workers = begin(leader)
    for worker in workers:
        worker.tell(FINISHED, number)
    version = leader.version
    assert not leader.has_left(1)
    workers[1].tell(LEFT, number)
    assert leader.has_left(1)
    assert leader.view.phase is COMPLETE
    assert leader.version > version


@pytest.mark.parametrize("seed", range(20))
def test_random_histories_never_mix_rounds_and_always_come_to_an_end(seed: int) -> None:
    rng = random.Random(seed)
    replicas = rng.randint(1, 4)
    leader = make_leader(replicas)
    workers = [Worker(leader, index) for index in range(replicas)]
    for worker in workers:
        worker.tell(IDLE)
    rounds = [leader.view.round]
    for _ in range(200):
        worker = rng.choice(workers)
        follow(worker, leader, lose=rng.random() < 0.3)
        if rng.random() < 0.05:
            index = worker.report.index
            workers[index] = Worker(leader, index, worker.report.incarnation + 1)
            workers[index].tell(IDLE)
        if leader.view.phase is UNDER_WAY and leader.view.round != rounds[-1]:
            rounds.append(leader.view.round)
            states = {w.report.state for w in workers}
            assert states == {IDLE}, "a round began while ranks of another one were at work"
    assert rounds == sorted(set(rounds))
    for _ in range(10):
        for worker in workers:
            follow(worker, leader, lose=False)
    assert leader.view.phase is COMPLETE


@pytest.mark.parametrize(
    ("round_number", "starts"),
    [(1, 1), (4, 4), (ROUNDS_PER_INCARNATION + 1, 2), (3 * ROUNDS_PER_INCARNATION + 2, 5)],
)
def test_starts_are_counted_over_replacements_of_the_leader(round_number: int, starts: int) -> None:
    assert count_starts(round_number) == starts


def follow(worker: Worker, leader: Leader, *, lose: bool) -> None:
    """Do what an agent does next, by the leader's present view."""
    view, report = leader.view, worker.report
    is_over = view.round > report.round or view.phase is GATHERING
    if report.state in (RUNNING, FINISHED) and is_over:
        worker.tell(IDLE, report.round)
    elif report.state is IDLE and view.phase is UNDER_WAY and view.round > report.round:
        worker.tell(RUNNING, view.round)
    elif report.state is RUNNING:
        worker.tell(IDLE if lose else FINISHED, report.round)
