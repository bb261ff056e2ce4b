"""The command `llmtrain`: the operator on one machine, and a helping hand beside `kubectl`.

Below: one module for each command. This one holds the words of the command line and nothing
heavy, so that `llmtrain --help` answers at once: every command imports what it needs when it is
called.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from llmtrain_operator.cli.data_commands import data
from llmtrain_operator.cli.iterate_commands import compare, search, write_next_manifest
from llmtrain_operator.cli.options import (
    DEFAULT_NAMESPACE,
    FILE,
    namespace_option,
    s3_options,
    store_option,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="llmtrain", prog_name="llmtrain")
def main() -> None:
    """Train language models from raw text to an evaluated model."""


@main.command()
@click.argument("manifest", type=FILE)
@store_option
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=None,
    help="Workers that train, in place of workers.replicas.",
)
@namespace_option
def run(manifest: Path, store: Path, workers: int | None, namespace: str | None) -> None:
    """Run a job on this machine, from the same MANIFEST as in a cluster.

    Ctrl-C saves and stops; the same command again goes on from there.
    """
    from llmtrain_operator.cli.manifest import load_job
    from llmtrain_operator.cli.run import run_job

    sys.exit(run_job(load_job(manifest, namespace=namespace, replicas=workers), store))


@main.command()
@store_option
@click.option(
    "--steps", type=click.IntRange(min=1), default=None, help="Steps, in place of the manifest's."
)
@click.option("--again", is_flag=True, help="Train anew, even though there is a finished run.")
def demo(store: Path, steps: int | None, again: bool) -> None:
    """Train a small model on Python's own documentation, and show what it writes.

    Takes a few minutes on two cores and no download. The job's manifest is STORE/demo.yaml.
    """
    from llmtrain_operator.cli.demo import run_demo

    sys.exit(run_demo(store, steps=steps, again=again))


@main.command()
@click.argument("manifest", type=FILE)
@click.option("--device", default=None, help="GPU, as h100.  [default: from the nodeSelector]")
@click.option(
    "--utilization",
    type=click.FloatRange(min=0.0, max=1.0, min_open=True),
    default=None,
    help="Share of the GPU's peak that training reaches.  [default: 0.35]",
)
@click.option("--price-per-gpu-hour", type=click.FloatRange(min=0.0), default=None)
@click.option(
    "--vocabulary",
    type=click.IntRange(min=2),
    default=None,
    help="Tokens, where the manifest does not say.",
)
@click.option(
    "--model-config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="config.json of the model that model.from names.",
)
@click.option("--measure", is_flag=True, help="Try a few steps of one rank on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(
    manifest: Path,
    device: str | None,
    utilization: float | None,
    price_per_gpu_hour: float | None,
    vocabulary: int | None,
    model_config: Path | None,
    measure: bool,
    as_json: bool,
) -> None:
    """Say what the job of MANIFEST will take: parameters, memory, arithmetic, time, cost.

    Warns of what does not fit, and of a model too large for its tokens. Starts nothing.
    """
    from llmtrain_operator.cli.manifest import load_job
    from llmtrain_operator.cli.plan import print_outlook

    print_outlook(
        load_job(manifest),
        device=device,
        utilization=utilization,
        price_per_gpu_hour=price_per_gpu_hour,
        vocabulary_size=vocabulary,
        model_config=model_config,
        measure=measure,
        as_json=as_json,
    )


@main.command("learning-rate")
@click.argument("manifest", type=FILE)
@store_option
@click.option(
    "--steps", type=click.IntRange(min=10), default=100, show_default=True, help="Rates to try."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def learning_rate(manifest: Path, store: Path, steps: int, as_json: bool) -> None:
    """Try the job of MANIFEST at ever higher learning rates, and suggest one.

    Prepares its data where it is not yet, and takes its first steps on this machine, from 1e-6 to
    10 in equal ratios, until the loss runs away. Trains nothing that is kept.
    """
    from llmtrain_operator.cli.data import try_learning_rates
    from llmtrain_operator.cli.manifest import load_job

    sys.exit(try_learning_rates(load_job(manifest), store, steps=steps, as_json=as_json))


@main.command()
@click.argument("name")
@store_option
@namespace_option
def status(name: str, store: Path, namespace: str | None) -> None:
    """Say how far the job NAME is, or what became of it, on this machine.

    In a cluster: kubectl get llmtrainingjobs, kubectl describe llmtrainingjob NAME.
    """
    from llmtrain_operator.cli.inspect import print_status

    print_status(name, namespace or DEFAULT_NAMESPACE, store)


@main.command()
@click.argument("name")
@click.option("--process", default=None, help="Only this one, as train-0 or prepare.")
@store_option
@namespace_option
def logs(name: str, process: str | None, store: Path, namespace: str | None) -> None:
    """Print what the processes of the job NAME wrote on this machine.

    In a cluster: kubectl logs -l llmtrain.dev/job=NAME --prefix.
    """
    from llmtrain_operator.cli.inspect import print_logs

    print_logs(name, namespace or DEFAULT_NAMESPACE, store, only=process)


@main.command()
@click.argument("manifest", type=FILE)
@namespace_option
@click.option("--wait", is_flag=True, help="Follow the job until it ends; 0 if it succeeded.")
def submit(manifest: Path, namespace: str | None, wait: bool) -> None:
    """Apply the job of MANIFEST to the cluster of the current kubeconfig.

    It is checked here first, so that a mistake is named by file and line.
    """
    from llmtrain_operator.cli.machine import OPERATOR_MODULES, require_packages

    require_packages(OPERATOR_MODULES, extra="operator")
    from llmtrain_operator.cli.submit import submit_job

    sys.exit(submit_job(manifest, namespace, wait=wait))


@main.command()
@click.option("--cluster", is_flag=True, help="Look at the cluster only, and require it.")
@store_option
@namespace_option
def doctor(cluster: bool, store: Path, namespace: str | None) -> None:
    """Say what this machine, or the cluster of the kubeconfig, lacks.

    The exit code is 1 where something is missing without which jobs cannot run.
    """
    from llmtrain_operator.cli.doctor import examine_cluster, examine_machine

    sys.exit(examine_cluster(namespace) if cluster else examine_machine(store, namespace))


@main.command()
@click.argument("action", type=click.Choice(["list", "verify", "prune", "pin", "unpin"]))
@click.argument("name", required=False)
@store_option
@namespace_option
@click.option("--uri", default=None, help="In place of NAME: where the run lies, as s3://…")
@s3_options
@click.option(
    "--keep-last", type=click.IntRange(min=1), default=1, show_default=True, help="For prune."
)
@click.option("--refused", is_flag=True, help="For prune: what was refused on resuming, too.")
@click.option("--step", type=click.IntRange(min=0), default=None, help="For pin and unpin.")
def checkpoints(
    action: str,
    name: str | None,
    store: Path,
    namespace: str | None,
    uri: str | None,
    endpoint: str | None,
    credentials: Path | None,
    ca_file: Path | None,
    keep_last: int,
    refused: bool,
    step: int | None,
) -> None:
    """List, verify, prune or pin the checkpoints of the job NAME, or of any run.

    The exit code of verify is 1 where a checkpoint is damaged. prune keeps the newest ones and
    what is pinned, and deletes nothing where none of the newest is whole.
    """
    from llmtrain_operator.cli.checkpoints import (
        describe_storage,
        find_local_run,
        handle_checkpoints,
    )

    if (step is None) == (action in {"pin", "unpin"}):
        raise click.UsageError("pin and unpin need --step, and nothing else takes it")
    if (name is None) == (uri is None):
        raise click.UsageError("say either the NAME of a job of this machine, or --uri")
    if name is not None:
        run_uri, storage = find_local_run(name, namespace or DEFAULT_NAMESPACE, store)
    else:
        assert uri is not None
        run_uri, storage = uri, describe_storage(uri, endpoint, credentials, ca_file)
    sys.exit(
        handle_checkpoints(
            action, run_uri, storage, keep_last=keep_last, refused=refused, step=step
        )
    )


main.add_command(data)
main.add_command(compare)
main.add_command(search)
main.add_command(write_next_manifest)
