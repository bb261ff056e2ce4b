"""`llmtrain learning-rate`: the range test of a job on this machine, and its curve.

Below: `prepare`, `training.range_test`, imported when it is called. Above: `__main__`.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from llmtrain_api.run import RunConfig

if TYPE_CHECKING:
    from llmtrain_trainer.training.range_test import RangeResult, RatePoint

SHOWN_POINTS = 24
BAR_CELLS = 40
DEFAULT_STEPS = 100


def add_learning_rate_command(commands: Any) -> None:
    """Add `learning-rate` to a command line's commands."""
    command = commands.add_parser("learning-rate", help="try ever higher learning rates")
    command.add_argument("--config", type=Path, required=True, help="the RunConfig as JSON")
    command.add_argument("--steps", type=int, default=DEFAULT_STEPS, help="(%(default)s)")
    command.add_argument("--json", action="store_true", help="print JSON")


def handle_learning_rate(arguments: argparse.Namespace, console: Console) -> int:
    """Prepare the data where it is not yet, take the steps, and print what they say.

    Raises:
        StageError: it cannot be done, and what to do.
    """
    from llmtrain_trainer.parallel import count_threads, join_ranks
    from llmtrain_trainer.prepare import run_prepare
    from llmtrain_trainer.progress import Reporter
    from llmtrain_trainer.rank_group import RankGroup
    from llmtrain_trainer.training.opening import open_run
    from llmtrain_trainer.training.range_test import try_rates

    aside = Console(stderr=True)
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=aside, show_path=False, show_level=False)],
    )
    config = take_share(RunConfig.model_validate_json(arguments.config.read_bytes()))
    reporter = Reporter(0, lambda update: None)
    with aside.status("preparing"):
        run_prepare(config, reporter)
    threads = count_threads(config.threads_per_process, ranks_on_host=1)
    with (
        aside.status("trying learning rates"),
        join_ranks(RankGroup(), threads=threads) as ranks,
        open_run(config, ranks, reporter) as run,
    ):
        result = try_rates(run, arguments.steps)
    if arguments.json:
        console.print_json(json.dumps(asdict(result)))
    else:
        print_result(result, config, console)
    return 0


def take_share(config: RunConfig) -> RunConfig:
    """Return a run whose one rank does the passes of all, and not one pass of all of them."""
    training = config.training
    size = training.micro_batch_size or max(1, training.global_batch // config.world_size)
    update = {"micro_batch_size": size, "auto_micro_batch": False}
    return config.model_copy(update={"training": training.model_copy(update=update)})


def print_result(result: RangeResult, config: RunConfig, console: Console) -> None:
    """Print the curve, and what follows from it."""
    table = Table("learning rate", "loss", "", box=None)
    table.columns[1].justify = "right"
    for point, length in draw_bars(result.points):
        mark = "  ← suggested" if point.learning_rate == find_nearest(result) else ""
        table.add_row(f"{point.learning_rate:.2g}", f"{point.loss:.3f}", "█" * length + mark)
    console.print(table)
    if result.diverged_at is None:
        console.print("the loss did not run away, at no rate")
    else:
        console.print(f"the loss runs away at {result.diverged_at:.2g}", highlight=False)
    for line in (
        f"learningRate: {result.suggested:.2g}   a tenth of the rate of the lowest loss",
        f"learningRate: {result.steepest:.2g}   where the loss falls fastest",
        f"learningRate: {config.learning_rate:.2g}   what the job would take",
    ):
        console.print(line, highlight=False)


def draw_bars(points: Sequence[RatePoint]) -> list[tuple[RatePoint, int]]:
    """Return some of the points, in equal ratios, each with the length of its bar in cells."""
    stride = -(-len(points) // SHOWN_POINTS)
    shown = points[::stride]
    highest, lowest = points[0].loss, min(point.loss for point in points)
    unit = max(highest - lowest, 1e-9) / BAR_CELLS
    return [
        (point, round(min(max((point.loss - lowest) / unit, 0.0), 1.5 * BAR_CELLS)))
        for point in shown
    ]


def find_nearest(result: RangeResult) -> float:
    """Return the rate of the shown point that is nearest to the suggestion, by its ratio."""
    rates = [point.learning_rate for point, _ in draw_bars(result.points)]
    return min(rates, key=lambda rate: abs(math.log(rate / result.suggested)))
