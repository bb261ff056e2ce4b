"""What a task of preparation is, and what every one but task 0 does.

Below: `reading` and `encoding`, the two passes that are divided; `team`. Above: `prepare`, where
task 0 puts together what all of them did.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmtrain_api.run import RunConfig
from llmtrain_trainer.preparation.encoding import SecondPass, fetch_kept_tokenizer
from llmtrain_trainer.preparation.reading import FirstPass
from llmtrain_trainer.preparation.team import Place, Team
from llmtrain_trainer.tokenizer.tokenization import TextEncoder


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitSizes:
    """How much a task does between two looks at the others, the same for all that work on a
    dataset; None: as the data suggests. The dataset does not depend on it.
    """

    read_bytes: int | None = None
    """Of source files."""

    encode_characters: int | None = None


def find_place(config: RunConfig, task: int) -> Place:
    """Return the place of a task of a run among all that may prepare the same data."""
    run = f"{config.namespace}.{config.name}.{config.uid}"
    return Place(run=run, task=task, num_tasks=max(config.data.tasks, task + 1))


def assist(
    config: RunConfig, team: Team, first: FirstPass, second: SecondPass, scratch: Path
) -> None:
    """Do what is to be done of both passes, until task 0 has put the dataset together.

    Args:
        config: the run.
        team: the tasks of the run.
        first: the pass that reads.
        second: the pass that encodes.
        scratch: folder for the tokenizer.

    Raises:
        DataError: where a source cannot be used.
        StoreError: where the store fails.
    """
    encoder: TextEncoder | None = None
    while not team.is_complete():
        if first.help():
            continue
        if encoder is None:
            spec, folder = config.data.tokenizer, scratch / "tokenizer"
            encoder = fetch_kept_tokenizer(team, spec, config.storage, folder)
        if encoder is None or not second.help(encoder):
            team.wait()
