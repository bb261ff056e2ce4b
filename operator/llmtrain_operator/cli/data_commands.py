"""The words of `llmtrain data`: making datasets by hand, and looking at them.

Below: `data`, imported when a command is called. Above: the command line.

A DATASET is the NAME of a job that ran on this machine, the fingerprint of a dataset in the store
of this machine, or the s3:// URI of a run or dataset.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from llmtrain_operator.cli.options import (
    DEFAULT_NAMESPACE,
    FILE,
    namespace_option,
    s3_options,
    store_option,
)


@click.group()
def data() -> None:
    """Prepare data on this machine, and look at what datasets are made of.

    A DATASET is the NAME of a job that ran here, the fingerprint of a dataset in --store, or the
    s3:// URI of a run or a dataset.
    """


@data.command()
@click.argument("manifest", type=FILE)
@store_option
@namespace_option
def prepare(manifest: Path, store: Path, namespace: str | None) -> None:
    """Prepare the data of the job of MANIFEST, and train nothing.

    A job with the same data uses what was prepared.
    """
    from llmtrain_operator.cli.data import prepare_data
    from llmtrain_operator.cli.manifest import load_job

    sys.exit(prepare_data(load_job(manifest, namespace=namespace), store))


@data.command()
@click.argument("dataset")
@store_option
@namespace_option
@s3_options
def inspect(
    dataset: str,
    store: Path,
    namespace: str | None,
    endpoint: str | None,
    credentials: Path | None,
    ca_file: Path | None,
) -> None:
    """Print what DATASET was made of: sources, what each step left out and why, the tokenizer."""
    from llmtrain_operator.cli.data import find_place, inspect_dataset

    place = find_place(
        dataset, namespace or DEFAULT_NAMESPACE, store, endpoint, credentials, ca_file
    )
    sys.exit(inspect_dataset(place))


@data.command()
@click.argument("dataset")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="Write the page to this file.  [default: where it lies; from S3: DATASET.html]",
)
@click.option("--open", "is_opened", is_flag=True, help="Show it in the browser.")
@store_option
@namespace_option
@s3_options
def report(
    dataset: str,
    output: Path | None,
    is_opened: bool,
    store: Path,
    namespace: str | None,
    endpoint: str | None,
    credentials: Path | None,
    ca_file: Path | None,
) -> None:
    """Print the path of the page that says what DATASET is like."""
    from llmtrain_operator.cli.data import find_place, find_report

    place = find_place(
        dataset, namespace or DEFAULT_NAMESPACE, store, endpoint, credentials, ca_file
    )
    sys.exit(find_report(place, output, is_opened=is_opened))


@data.command()
@click.argument("dataset")
@click.argument("other")
@store_option
@namespace_option
@s3_options
def diff(
    dataset: str,
    other: str,
    store: Path,
    namespace: str | None,
    endpoint: str | None,
    credentials: Path | None,
    ca_file: Path | None,
) -> None:
    """Print what differs between DATASET and OTHER: recipe, sources, counts, vocabulary.

    The exit code is 1 where anything differs.
    """
    from llmtrain_operator.cli.data import compare_datasets, find_place

    first, second = (
        find_place(name, namespace or DEFAULT_NAMESPACE, store, endpoint, credentials, ca_file)
        for name in (dataset, other)
    )
    sys.exit(compare_datasets(first, second))


@data.command()
@click.argument("dataset")
@click.option("--source", help="A URI, a glob, or a SHA-256.")
@click.option("--document", help="The SHA-256 of its text as it was read, or id: and its id.")
@store_option
@namespace_option
@s3_options
def lineage(
    dataset: str,
    source: str | None,
    document: str | None,
    store: Path,
    namespace: str | None,
    endpoint: str | None,
    credentials: Path | None,
    ca_file: Path | None,
) -> None:
    """Print the datasets that use a source or a document, and the runs that were trained on them.

    All that lies in the storage of DATASET is looked at, which may also be the URI of the storage
    itself. The exit code is 1 where there are none.
    """
    from llmtrain_operator.cli.data import find_place, trace_use

    given = {"source": source, "document": document}
    named = {what: value for what, value in given.items() if value is not None}
    if len(named) != 1:
        raise click.UsageError("give one of --source and --document")
    ((what, value),) = named.items()
    place = find_place(
        dataset, namespace or DEFAULT_NAMESPACE, store, endpoint, credentials, ca_file
    )
    sys.exit(trace_use(place, what, value))
