"""The place of a rank among the ranks of one round.

Below: nothing. Above: the agent makes one for each rank that it forks, the stages work by it.
"""

from __future__ import annotations

from dataclasses import dataclass

ROUNDS_PER_INCARNATION = 1000
"""Round numbers that each incarnation of the leader has to itself; one that needs more of them
goes on into the next one's, which hears of it from the workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankGroup:
    """The place of a rank among the ranks of one round."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    round: int = 1
    """Counts the starts of the ranks of this run, over restarts of pods too."""
    store_host: str = "127.0.0.1"
    store_port: int = 0
    """Where rank 0 of this round serves the torch TCPStore; fresh for each round. 0: alone."""
    worker: int = 0
    """Index of its worker: the task of a stage whose workers run no rounds together."""
    staging: tuple[str, ...] = ()
    """Folders of this host to stage checkpoints in, the best first; they outlive the round."""


def count_starts(round_number: int) -> int:
    """Return how often the ranks of a run were started, up to a round, as far as its number tells.

    Of earlier incarnations of the leader each counts once.
    """
    incarnation, within = divmod(round_number, ROUNDS_PER_INCARNATION)
    return incarnation + within
