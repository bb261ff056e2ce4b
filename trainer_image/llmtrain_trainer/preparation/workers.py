"""Work on batches by several processes, with results in the order of the batches.

Below: concurrent.futures, a fork server. Above: `reading`, `encoding`, and the report's `sample`.

Results are those of one process, since each batch is worked on for itself and they are yielded in
order. `call_aside` is for one long call beside all that. A worker ends with the process that it
works for, however that one ends.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

BATCHES_AHEAD = 2
"""For each process: what is read while they work, so that none waits, and memory is bounded."""

PRELOADED = [
    "llmtrain_trainer.preparation.refine",
    "llmtrain_trainer.preparation.duplicates",
    "llmtrain_trainer.preparation.encoding",
]

Batch = TypeVar("Batch")
Result = TypeVar("Result")

_function: Callable[[Any], Any]
"""What a worker does to each batch."""


@contextmanager
def open_workers(
    function: Callable[[Batch], Result], num_processes: int
) -> Iterator[Callable[[Iterable[Batch]], Iterator[Result]]]:
    """Give what yields the results of `function` for batches, in their order, during the block.

    Args:
        function: pure, and one that can be pickled; each process gets it once, and may keep in it
            what it has learned from earlier batches. Batches are read ahead by a few.
        num_processes: 1: it is all done in this process.
    """
    if num_processes == 1:
        yield partial(map, function)
        return
    with _open_pool(num_processes, function) as pool:

        def run(batches: Iterable[Batch]) -> Iterator[Result]:
            waiting: deque[Future[Result]] = deque()
            try:
                for batch in batches:
                    waiting.append(pool.submit(_call_function, batch))
                    if len(waiting) > BATCHES_AHEAD * num_processes:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

        yield run


@contextmanager
def call_aside(function: Callable[[], Result]) -> Iterator[Callable[[], Result]]:
    """Give what waits for the result of a call, which another process makes during the block.

    Args:
        function: pure, and one that can be pickled; what it raises is raised to whoever waits.
    """
    with _open_pool(1, _call) as pool:
        yield pool.submit(_call_function, function).result


def _open_pool(num_processes: int, function: Callable[[Any], Any]) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return ProcessPoolExecutor(num_processes, context, _begin_work, (function,))


def _call(function: Callable[[], Result]) -> Result:
    return function()


def _begin_work(function: Callable[[Any], Any]) -> None:
    global _function  # of a worker, which has no other place to keep it between batches
    _function = function
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would be as many in each process
    _end_with_parent()


def _call_function(batch: Any) -> Any:
    return _function(batch)


def _end_with_parent() -> None:
    """End this process when the one that it works for ends, which it would not notice."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True, name="parent-watch").start()
