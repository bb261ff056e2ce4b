"""The command of every pod: one agent for one incarnation of one worker. And a look at a run.

    python -m llmtrain_trainer agent --config run.json --stage train --index 0 --incarnation 0
    python -m llmtrain_trainer checkpoints list --run-uri s3://… --storage '{"uri": …}'

Below: `agent`, and `init` where this is process 1; its exit code is the exit record's code.
`inspection` is what `llmtrain checkpoints`, `data`, `compare` and `next` call, which know no
store themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from llmtrain_api.records import ExitRecord, Stage
from llmtrain_api.run import RunConfig, StorageConfig
from llmtrain_trainer.agent.exit_record import describe_failure, write_exit_record
from llmtrain_trainer.agent.init import run_as_init
from llmtrain_trainer.agent.rank_process import describe_unforeseen
from llmtrain_trainer.agent.settings import AgentSettings
from llmtrain_trainer.agent.supervision import run_agent
from llmtrain_trainer.failures import ConfigurationError, StageError
from llmtrain_trainer.inspection.checkpoints import (
    pin_checkpoint,
    print_checkpoints,
    print_verification,
    prune_checkpoints,
)
from llmtrain_trainer.inspection.data_commands import add_data_commands, handle_data
from llmtrain_trainer.inspection.learning_rate import (
    add_learning_rate_command,
    handle_learning_rate,
)
from llmtrain_trainer.inspection.run_commands import add_run_commands, handle_compare, handle_next
from llmtrain_trainer.stages import STAGES, StageEntry
from llmtrain_trainer.store import open_store

logger = logging.getLogger("llmtrain_trainer")

DEFAULT_GRACE_SECONDS = 25.0
"""Five less than Kubernetes gives a pod by default."""


def main() -> None:
    """Run the agent, as the only child of an init process where this is process 1."""
    arguments = parse_arguments(sys.argv[1:])
    if arguments.command in LOOKS:
        sys.exit(look(arguments))
    if os.getpid() == 1:
        sys.exit(run_as_init(lambda: run(arguments, STAGES)))
    sys.exit(run(arguments, STAGES))


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="llmtrain_trainer", description="Run one worker of an LLMTrainingJob."
    )
    commands = parser.add_subparsers(required=True, dest="command")
    checkpoints = commands.add_parser("checkpoints", help="look at the checkpoints of a run")
    actions = ["list", "verify", "prune", "pin", "unpin"]
    checkpoints.add_argument("action", choices=actions)
    checkpoints.add_argument("--run-uri", required=True, help="where the run lies, as s3://…")
    checkpoints.add_argument("--storage", required=True, help="a StorageConfig as JSON")
    checkpoints.add_argument("--keep-last", type=int, default=1, help="for prune (%(default)s)")
    checkpoints.add_argument("--refused", action="store_true", help="for prune: these, too")
    checkpoints.add_argument("--step", type=int, default=0, help="for pin and unpin")
    add_data_commands(commands)
    add_run_commands(commands)
    add_learning_rate_command(commands)
    agent = commands.add_parser("agent", help="supervise the ranks of one worker")
    agent.add_argument("--config", type=Path, required=True, help="the RunConfig as JSON")
    agent.add_argument("--stage", type=Stage, choices=list(Stage), required=True)
    agent.add_argument("--index", type=int, required=True, help="which worker this is, from 0")
    agent.add_argument("--incarnation", type=int, required=True, help="which life of that worker")
    agent.add_argument(
        "--workers", type=int, help="how many workers train; absent: as the RunConfig says"
    )
    agent.add_argument("--host", default="0.0.0.0", help="address to listen at (%(default)s)")
    agent.add_argument(
        "--termination-log", type=Path, help="file for the exit record; absent: only the log"
    )
    agent.add_argument(
        "--grace-seconds",
        type=float,
        default=DEFAULT_GRACE_SECONDS,
        help="how long saving may take after SIGTERM (%(default)s)",
    )
    return parser.parse_args(arguments)


def inspect(arguments: argparse.Namespace, console: Console) -> int:
    """Do what `llmtrain checkpoints` asks for."""
    storage = StorageConfig.model_validate_json(arguments.storage)
    store = open_store(arguments.run_uri, storage)
    if arguments.action == "list":
        return print_checkpoints(store, console)
    if arguments.action == "verify":
        return print_verification(store, console)
    if arguments.action == "prune":
        return prune_checkpoints(
            store, console, keep_last=arguments.keep_last, with_refused=arguments.refused
        )
    is_pin = arguments.action == "pin"
    return pin_checkpoint(store, console, arguments.step, pinned=is_pin)


LOOKS = {
    "checkpoints": inspect,
    "compare": handle_compare,
    "data": handle_data,
    "learning-rate": handle_learning_rate,
    "next": handle_next,
}
"""Commands for people, which no pod runs."""


def look(arguments: argparse.Namespace) -> int:
    """Do what a person asks for; the exit code says whether all is well."""
    console = Console()
    try:
        return LOOKS[arguments.command](arguments, console)
    except StageError as error:
        said = f"{error.reason}: {error.message}; {error.next_step}"
        console.print(said, style="red", soft_wrap=True, markup=False, highlight=False)
        return error.code.value


def run(arguments: argparse.Namespace, stages: dict[Stage, StageEntry]) -> int:
    """Run the agent to its end, leave the exit record, and return the exit code."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format=f"%(asctime)s %(levelname)s {arguments.stage.value}-{arguments.index} %(message)s",
    )
    try:
        record = asyncio.run(run_agent(_read_settings(arguments), stages[arguments.stage]))
    except StageError as error:
        record = describe_failure(error)
    except Exception as error:
        logger.exception("the agent met what nobody foresaw")
        record = describe_failure(describe_unforeseen(error))
    _leave(record, arguments.termination_log)
    return record.code.value


def _read_settings(arguments: argparse.Namespace) -> AgentSettings:
    path = arguments.config
    try:
        config = RunConfig.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigurationError(
            f"{path} cannot be read as the run's configuration: {error}",
            reason="RunConfigInvalid",
            next_step="use an operator and a trainer image of the same version",
        ) from error
    if arguments.workers is not None:
        # The file is the same for all pods of a run, and may be of another size than this one.
        config = config.model_copy(update={"replicas": arguments.workers})
    return AgentSettings(
        config=config,
        stage=arguments.stage,
        index=arguments.index,
        incarnation=arguments.incarnation,
        host=arguments.host,
        grace_seconds=arguments.grace_seconds,
    )


def _leave(record: ExitRecord, termination_log: Path | None) -> None:
    logger.info("ends with %s (%s): %s", record.reason, record.code.name, record.message)
    if termination_log is not None:
        write_exit_record(record, termination_log)


if __name__ == "__main__":
    main()
