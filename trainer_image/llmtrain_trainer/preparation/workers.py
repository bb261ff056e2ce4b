"""Work on batches by several processes, with results in the order of the batches.

Below: concurrent.futures, a fork server. Above: `corpus`.

Results are those of one process, since each batch is worked on for itself and they are yielded in
order. A worker ends with the process that it works for, however that one ends.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

BATCHES_AHEAD = 2
"""For each process: what is read while they work, so that none waits, and memory is bounded."""

PRELOADED = ["llmtrain_trainer.preparation.refine"]

Batch = TypeVar("Batch")
Result = TypeVar("Result")


def map_in_order(
    function: Callable[[Batch], Result], batches: Iterable[Batch], num_processes: int
) -> Iterator[Result]:
    """Yield what `function` makes of each batch, in their order.

    Args:
        function: pure, and one that can be pickled.
        batches: read ahead by a few.
        num_processes: 1: it is all done in this process.
    """
    if num_processes == 1:
        yield from map(function, batches)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with ProcessPoolExecutor(num_processes, context, _end_with_parent) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for batch in batches:
                waiting.append(pool.submit(function, batch))
                if len(waiting) > BATCHES_AHEAD * num_processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _end_with_parent() -> None:
    """End this process when the one that it works for ends, which it would not notice."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True, name="parent-watch").start()
