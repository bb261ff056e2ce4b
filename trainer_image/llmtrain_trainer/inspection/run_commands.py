"""What `llmtrain compare` and `next` call in the trainer, which knows stores and draws.

Below: `run_facts`, `run_comparison`, `run_page`, `successor`, each imported when it is called.
Above: `__main__`. Which runs are meant is told on standard input, as a JSON array of `RunPlace`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from llmtrain_api.run import RunPlace
from llmtrain_trainer.failures import ConfigurationError


def add_run_commands(commands: Any) -> None:
    """Add `compare` and `next` to a command line's commands."""
    compare = commands.add_parser("compare", help="print runs of standard input side by side")
    compare.add_argument("--json", action="store_true", help="print JSON")
    compare.add_argument("--html", type=Path, help="write a page there, too")
    compare.add_argument("--metric", help="for --html: drawn against size, time and cost")
    compare.add_argument("--limit", type=float, help="for --metric: the worst that is good enough")
    following = commands.add_parser("next", help="print what to change of a run, as JSON")
    following.add_argument("--min-confidence", type=float, required=True)
    following.add_argument("--keep-training", action="store_true")


def handle_compare(arguments: argparse.Namespace, console: Console) -> int:
    """Compare runs; the exit code is 0.

    Raises:
        StoreError: a run is not there, or its store fails.
        ConfigurationError: no run has the metric.
    """
    from llmtrain_trainer.inspection.run_comparison import describe_runs, print_comparison
    from llmtrain_trainer.inspection.run_facts import read_run

    places = [RunPlace.model_validate(item) for item in json.load(sys.stdin)]
    runs = [read_run(place) for place in places]
    known = sorted({name for run in runs for name in run.metrics})
    if arguments.metric is not None and arguments.metric not in known:
        raise ConfigurationError(
            f"--metric {arguments.metric}: no run has it; they have {', '.join(known) or 'none'}",
            reason="MetricMissing",
            next_step="name one of these",
        )
    if arguments.json:
        console.print_json(data=describe_runs(runs))
    else:
        print_comparison(runs, console)
    if arguments.html is not None:
        from llmtrain_trainer.inspection.run_page import render_comparison

        page = render_comparison(runs, arguments.metric, arguments.limit)
        arguments.html.write_text(page, encoding="utf-8")
        if not arguments.json:
            console.print(f"page: {arguments.html}", highlight=False, soft_wrap=True)
    return 0


def handle_next(arguments: argparse.Namespace, console: Console) -> int:
    """Print what the next run changes of the one of standard input; the exit code is 0.

    Raises:
        StageError: the run is not there, or too little is known of it.
    """
    from llmtrain_trainer.inspection.successor import plan_successor

    [place] = [RunPlace.model_validate(item) for item in json.load(sys.stdin)]
    changes = plan_successor(
        place,
        min_confidence=arguments.min_confidence,
        keeps_training=arguments.keep_training,
    )
    console.print_json(data=[change.dump() for change in changes])
    return 0
