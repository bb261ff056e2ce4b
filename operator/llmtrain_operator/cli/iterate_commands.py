"""The words of `llmtrain compare`, `search` and `next`: from an evaluated run to a better one.

Below: `runs`, `search`, `next`, imported when a command is called. Above: the command line.

A RUN is the NAME of a job that ran on this machine, or the s3:// URI of a run.
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

NEW_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)

price_option = click.option(
    "--price-per-hour",
    type=click.FloatRange(min=0.0),
    default=None,
    help="Of a GPU, or of the machine where a run has none: costs by the ledger.",
)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--html", type=NEW_FILE, default=None, help="Write a page, with the curves, too.")
@click.option("--metric", default=None, help="For --html: drawn against size, time and cost.")
@price_option
@store_option
@namespace_option
@s3_options
def compare(
    runs: tuple[str, ...],
    as_json: bool,
    html: Path | None,
    metric: str | None,
    price_per_hour: float | None,
    store: Path,
    namespace: str | None,
    endpoint: str | None,
    credentials: Path | None,
    ca_file: Path | None,
) -> None:
    """Show RUNs side by side: in what their specs differ, metrics, size, time and cost.

    A RUN is the NAME of a job that ran here, or the s3:// URI of a run (status.provenance.runUri),
    whose ledger is in its cluster.
    """
    from llmtrain_operator.cli.runs import compare_runs, find_run

    if metric is not None and html is None:
        raise click.UsageError("--metric is drawn on the page of --html")
    places = [
        find_run(
            run,
            namespace or DEFAULT_NAMESPACE,
            store,
            endpoint=endpoint,
            credentials=credentials,
            ca_file=ca_file,
            price_per_hour=price_per_hour,
        )
        for run in runs
    ]
    sys.exit(compare_runs(places, as_json=as_json, html=html, metric=metric))


@click.command()
@click.argument("manifest", type=FILE)
@click.option("--sizes", required=True, help="Parameters of model.size, as 12M,6M,3M.")
@click.option("--metric", default="loss", show_default=True, help="As gates name it.")
@click.option(
    "--tolerance",
    default="2%",
    show_default=True,
    help="How much worse than the largest is good enough: a share of its value, or an amount.",
)
@price_option
@store_option
@namespace_option
def search(
    manifest: Path,
    sizes: str,
    metric: str,
    tolerance: str,
    price_per_hour: float | None,
    store: Path,
    namespace: str | None,
) -> None:
    """Find the smallest model that is good enough, on this machine.

    The job of MANIFEST is run at each of --sizes, from the largest down, until one is worse than
    --tolerance allows or fails a gate. The same command again goes on with what is not done.
    Leaves a page and the manifest of the smallest that is good enough in the store.
    """
    from llmtrain_operator.cli.manifest import load_job
    from llmtrain_operator.cli.search import search_sizes
    from llmtrain_operator.cli.sizes import parse_sizes, parse_tolerance

    try:
        wanted, room = parse_sizes(sizes), parse_tolerance(tolerance)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    code = search_sizes(
        load_job(manifest, namespace=namespace),
        store,
        wanted,
        metric=metric,
        tolerance=room,
        price_per_hour=price_per_hour,
    )
    sys.exit(code)


@click.command(name="next")
@click.argument("run")
@click.option("--output", "-o", type=NEW_FILE, required=True, help="The manifest to write.")
@click.option(
    "--manifest", type=FILE, default=None, help="Of the job of RUN, where that is an s3:// URI."
)
@click.option("--name", default=None, help="Of the next job.  [default: NAME-2, NAME-3, …]")
@click.option(
    "--min-confidence",
    type=click.FloatRange(min=0.0, max=1.0),
    default=0.5,
    show_default=True,
    help="Leaves out what is less sure about single documents.",
)
@click.option(
    "--keep-training", is_flag=True, help="Change the data alone, to see what that brings."
)
@store_option
@namespace_option
@s3_options
def write_next_manifest(
    run: str,
    output: Path,
    manifest: Path | None,
    name: str | None,
    min_confidence: float,
    keep_training: bool,
    store: Path,
    namespace: str | None,
    endpoint: str | None,
    credentials: Path | None,
    ca_file: Path | None,
) -> None:
    """Write the manifest of the job that comes after RUN, by what its evaluation found out.

    Documents to leave out and labels to correct become lists in the store, sources get other
    weights, and the loss curve suggests what to train differently. Each change has its reason as
    a comment, for you to keep or to strike out.
    """
    from llmtrain_operator.cli.manifest import load_job
    from llmtrain_operator.cli.next import ask_changes, write_next
    from llmtrain_operator.cli.runs import find_job, find_run

    is_uri = run.startswith("s3://")
    if is_uri != (manifest is not None):
        raise click.UsageError("an s3:// URI needs --manifest, and the name of a job has its own")
    space = namespace or DEFAULT_NAMESPACE
    parent = load_job(manifest, namespace=namespace) if manifest else find_job(run, space, store)
    place = find_run(run, space, store, endpoint=endpoint, credentials=credentials, ca_file=ca_file)
    changes = ask_changes(place, min_confidence=min_confidence, keeps_training=keep_training)
    if not changes:
        raise click.ClickException(
            f"nothing to change: the evaluation of {run} found nothing that can be done by itself"
            + (", and its curve suggests nothing" if not keep_training else "")
        )
    output.write_text(write_next(parent, place, changes, name), encoding="utf-8")
    for change in changes:
        click.echo(f"spec.{change.path}: {change.reason}")
    click.echo(f"manifest: {output}")
