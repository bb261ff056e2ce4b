"""What `llmtrain data` calls in the trainer, which knows stores: prepare, inspect, report, diff.

Below: `prepare`, `datasets`, `comparison`, `data_report`, each imported when it is called.
Above: `__main__`.
"""

from __future__ import annotations

import argparse
import logging
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler

from llmtrain_api.naming import locate_dataset
from llmtrain_api.run import RunConfig, StorageConfig
from llmtrain_trainer.dataset.shards import DATASET, RunDataset
from llmtrain_trainer.failures import StoreError
from llmtrain_trainer.store import Store, open_store

Command = Callable[[argparse.Namespace, Console], int]


def add_data_commands(commands: Any) -> None:
    """Add `data` to a command line's commands."""
    data = commands.add_parser("data", help="make datasets and look at them")
    data.add_argument("action", choices=sorted(COMMANDS))
    data.add_argument("--uri", help="of a dataset or run; for lineage, of the storage")
    data.add_argument("--storage", help="a StorageConfig as JSON")
    data.add_argument("--source", help="for lineage: URI, glob or SHA-256")
    data.add_argument("--document", help="for lineage, in place of it: SHA-256 or id:…")
    data.add_argument("--other", help="for diff: a URI as --uri")
    data.add_argument("--other-storage", help="for diff: a StorageConfig as JSON")
    data.add_argument("--output", type=Path, help="for report: the file to write")
    data.add_argument("--open", action="store_true", help="for report: show it in the browser")
    data.add_argument("--config", type=Path, help="for prepare: the RunConfig as JSON")


def handle_data(arguments: argparse.Namespace, console: Console) -> int:
    """Do what `llmtrain data` asks for; return the exit code.

    Raises:
        StageError: what is asked for cannot be done, and what to do.
    """
    return COMMANDS[arguments.action](arguments, console)


def open_dataset_store(uri: str, storage: StorageConfig) -> Store:
    """Return a store rooted at a dataset, or at that of the run at `uri`.

    Raises:
        StoreError: where the store fails.
    """
    store = open_store(uri, storage)
    if store.find_object(DATASET) is None:
        return store
    record = RunDataset.model_validate_json(store.read_bytes(DATASET))
    return open_store(record.uri, storage)


def _prepare(arguments: argparse.Namespace, console: Console) -> int:
    from llmtrain_trainer.prepare import run_prepare
    from llmtrain_trainer.progress import Reporter

    handler = RichHandler(console=console, show_path=False, show_level=False)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    config = RunConfig.model_validate_json(arguments.config.read_bytes())
    with console.status("preparing"):
        result = run_prepare(config, Reporter(0, lambda update: None))
    assert result.dataset is not None
    made = "was there already" if result.dataset_reused else "is prepared"
    lines = [
        f"dataset {result.dataset} {made}",
        f"  {locate_dataset(config.storage.uri, result.dataset)}",
        f"  {result.documents:,} documents, {result.train_tokens:,} tokens to train on,"
        f" {result.validation_tokens:,} held out, vocabulary of {result.vocabulary_size:,}",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    return 0


def _inspect(arguments: argparse.Namespace, console: Console) -> int:
    from llmtrain_trainer.inspection.datasets import print_dataset

    return print_dataset(_open(arguments.uri, arguments.storage), console)


def _lineage(arguments: argparse.Namespace, console: Console) -> int:
    from llmtrain_trainer.inspection.datasets import print_document_lineage, print_lineage

    storage = StorageConfig.model_validate_json(arguments.storage)
    store = open_store(arguments.uri, storage)
    if arguments.document is not None:
        return print_document_lineage(store, storage, console, arguments.document)
    return print_lineage(store, console, arguments.source)


def _diff(arguments: argparse.Namespace, console: Console) -> int:
    from llmtrain_trainer.inspection.comparison import print_differences

    first = _open(arguments.uri, arguments.storage)
    return print_differences(first, _open(arguments.other, arguments.other_storage), console)


def _report(arguments: argparse.Namespace, console: Console) -> int:
    from llmtrain_trainer.data_report.record import REPORT_PAGE

    storage = StorageConfig.model_validate_json(arguments.storage)
    store = open_dataset_store(arguments.uri, storage)
    if store.find_object(REPORT_PAGE) is None:
        raise StoreError(
            f"{store.uri} has no report",
            reason="DatasetDamaged",
            next_step="prepare it by a version of llmtrain that makes reports",
        )
    path = arguments.output
    if path is None and storage.local_root is not None:
        path = Path(storage.local_root) / store.uri.removeprefix("s3://") / REPORT_PAGE
    else:
        path = path or Path(f"{store.uri.rpartition('/')[2]}.html")
        path.write_bytes(store.read_bytes(REPORT_PAGE))
    console.print(str(path), highlight=False, soft_wrap=True)
    if arguments.open:
        webbrowser.open(path.absolute().as_uri())
    return 0


def _open(uri: str, storage: str) -> Store:
    return open_dataset_store(uri, StorageConfig.model_validate_json(storage))


COMMANDS: dict[str, Command] = {
    "diff": _diff,
    "inspect": _inspect,
    "lineage": _lineage,
    "prepare": _prepare,
    "report": _report,
}
