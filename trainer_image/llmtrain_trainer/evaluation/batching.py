"""Batches of what is alike in length, divided among the ranks.

Below: `parallel` for what ranks tell each other. Above: `generating`, `choices`, `similarity`.

What is in a batch does not depend on how many ranks there are: products of other shapes are rounded
differently, so that only the same batches give the same numbers to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llmtrain_trainer.parallel import Ranks


def group_by_length(
    lengths: Sequence[int], batch_size: int, *, only_equal: bool
) -> list[list[int]]:
    """Return batches of indices, the longest first, so that memory runs out at once or never.

    Args:
        lengths: of each item.
        batch_size: items of a batch, at most.
        only_equal: whether all items of a batch must have one length.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        last = batches[-1] if batches else []
        differs = only_equal and bool(last) and lengths[last[0]] != lengths[index]
        if not last or len(last) == batch_size or differs:
            batches.append([])
        batches[-1].append(index)
    return batches


def divide_work(
    ranks: Ranks,
    key: str,
    batches: Sequence[Sequence[int]],
    work: Callable[[Sequence[int]], Sequence[Any]],
) -> list[Any]:
    """Return what is made of every item, in the order of the items, on every rank.

    Args:
        ranks: of which each works at every so many-th batch. All must call this.
        key: under which they tell each other; new each time.
        batches: indices, each of one item; together from 0 on.
        work: makes something that JSON can hold of each item of a batch.
    """
    world_size = ranks.group.world_size
    told = ranks.collect(key, [work(batch) for batch in batches[ranks.group.rank :: world_size]])
    made: dict[int, Any] = {}
    for number, batch in enumerate(batches):
        made.update(zip(batch, told[number % world_size][number // world_size], strict=True))
    return [made[index] for index in range(len(made))]
