"""What an agent is told: the run, and which process of it this is.

Below: the contract. Above: `__main__` reads it from the command line, `supervision` and
`round_runner` work by it.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmtrain_api.records import Stage
from llmtrain_api.run import RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """One incarnation of one worker of a stage."""

    config: RunConfig
    stage: Stage
    index: int
    incarnation: int
    host: str
    """Address to listen at."""
    grace_seconds: float
    """How long ranks may take to save and leave after SIGTERM."""

    @property
    def num_workers(self) -> int:
        """Workers that run rounds together."""
        return self.config.count_workers(self.stage)

    @property
    def member(self) -> int:
        """Which of these this is; 0 leads."""
        return 0 if self.stage is Stage.PREPARE else self.index

    @property
    def num_ranks(self) -> int:
        """Ranks of each worker."""
        return self.config.count_local_ranks(self.stage)
