"""The work queue: once each, one at a time, again after an error."""

from __future__ import annotations

import asyncio
import random

import pytest

from llmtrain_operator import workqueue
from llmtrain_operator.workqueue import CROWD, WorkQueue


class Handler:
    """Remembers what it was asked to handle."""

    def __init__(self, answers: dict[int, float | Exception] | None = None) -> None:
        self.calls: list[str] = []
        self.at_work: set[str] = set()
        self.answers = answers or {}
        self.called = asyncio.Condition()
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, key: str) -> float | None:
        assert key not in self.at_work, "a key is handled twice at once"
        self.at_work.add(key)
        self.calls.append(key)
        number = len(self.calls)
        async with self.called:
            self.called.notify_all()
        await self.gate.wait()
        self.at_work.discard(key)
        answer = self.answers.get(number)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def wait_for_calls(self, count: int) -> None:
        async with asyncio.timeout(10), self.called:
            await self.called.wait_for(lambda: len(self.calls) >= count)


def make_queue(handler: Handler) -> WorkQueue:
    return WorkQueue(handler, num_workers=4, rng=random.Random(0))


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_key_that_waits_is_not_added_again() -> None:
    handler = Handler()
    queue = make_queue(handler)
    for _ in range(5):
        queue.enqueue("a")
    queue.enqueue("b")
    assert queue.depth == 2

    task = asyncio.create_task(queue.run())
    await handler.wait_for_calls(2)
    await asyncio.sleep(0.05)

    assert sorted(handler.calls) == ["a", "b"]
    await stop(task)


async def test_a_key_that_is_in_hand_is_handled_once_more_afterwards() -> None:
    handler = Handler()
    handler.gate.clear()
    queue = make_queue(handler)
    task = asyncio.create_task(queue.run())
    queue.enqueue("a")
    await handler.wait_for_calls(1)
    for _ in range(3):
        queue.enqueue("a")
    handler.gate.set()

    await handler.wait_for_calls(2)
    await asyncio.sleep(0.05)

    assert handler.calls == ["a", "a"]
    await stop(task)


async def test_an_error_is_tried_again_and_stops_no_other_key() -> None:
    handler = Handler({1: ValueError("not today")})
    queue = make_queue(handler)
    task = asyncio.create_task(queue.run())
    queue.enqueue("a")
    await handler.wait_for_calls(1)
    queue.enqueue("b")

    await handler.wait_for_calls(3)

    assert handler.calls.count("a") == 2
    await stop(task)


async def test_a_key_comes_back_after_the_time_it_asked_for() -> None:
    handler = Handler({1: 0.01})
    queue = make_queue(handler)
    task = asyncio.create_task(queue.run())
    queue.enqueue("a")

    await handler.wait_for_calls(2)

    assert handler.calls == ["a", "a"]
    await stop(task)


async def test_a_key_that_fails_for_days_is_still_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workqueue, "FIRST_BACKOFF_SECONDS", 0.0)
    failures = 1100  # 2 to this power is more than a float holds
    handler = Handler({number: OSError("down") for number in range(1, failures + 1)})
    queue = make_queue(handler)
    queue.enqueue("a")
    working = asyncio.create_task(queue.run())
    await handler.wait_for_calls(failures + 1)
    await stop(working)


async def test_a_key_never_handled_comes_before_one_that_was() -> None:
    handler = Handler({1: 60.0, 2: 60.0})
    queue = WorkQueue(handler, num_workers=1, rng=random.Random(0))
    task = asyncio.create_task(queue.run())
    for key in ("old", "older"):
        queue.enqueue(key)
    await handler.wait_for_calls(2)
    handler.gate.clear()
    queue.enqueue("in hand")
    await handler.wait_for_calls(3)

    for key in ("older", "old", "new", "newer"):
        queue.enqueue(key)
    handler.gate.set()
    await handler.wait_for_calls(7)

    assert handler.calls[3:] == ["new", "newer", "old", "older"]
    await stop(task)


async def test_many_new_keys_are_a_crowd_for_a_while_and_known_ones_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = make_queue(Handler(dict.fromkeys(range(1, 2000), 60.0)))
    task = asyncio.create_task(queue.run())
    for number in range(CROWD - 1):
        queue.enqueue(f"job-{number}")
    await asyncio.sleep(0)
    for _ in range(CROWD):
        queue.enqueue("job-0")
    seen = [queue.is_crowded]
    queue.enqueue("one more")
    seen.append(queue.is_crowded)
    monkeypatch.setattr(workqueue, "CROWD_SECONDS", 0.0)
    seen.append(queue.is_crowded)

    assert seen == [False, True, False]
    await stop(task)
