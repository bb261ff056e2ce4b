"""``python -m testbed up | down | status | build | build-nodes``: the test bed, by hand.

The same cluster as the tests': two real nodes with the project's images, and a MinIO that the
pods reach. A server of its own holds it, so `down` is a SIGTERM to that server.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from testbed.binaries import BINARIES, ensure_binaries
from testbed.cache import cache_directory
from testbed.cluster import Cluster, sweep_leftovers
from testbed.images import ensure_store, list_project_images
from testbed.minio import MinioServer
from testbed.processes import wait_until
from testbed.requirements import find_missing, find_repository, install_missing

# A cold machine builds every program and image first.
UP_SECONDS = 3600
DOWN_SECONDS = 60
BUCKET = "llmtrain"


@click.group()
def main() -> None:
    """A real two-node Kubernetes cluster on this machine."""


@main.command()
def build() -> None:
    """Build the programs of the cluster into the cache."""
    ensure_binaries(BINARIES)


@main.command()
def build_nodes() -> None:
    """Install what real nodes need, and build the images that they run."""
    install_missing()
    if missing := find_missing():
        click.echo(f"real nodes need {', '.join(missing)}: their tests cannot run here", err=True)
        return
    ensure_store(list_project_images(find_repository()))


@main.command()
def up() -> None:
    """Start a cluster, and print how to reach it."""
    install_missing()
    if missing := find_missing():
        raise click.ClickException(f"real nodes need {', '.join(missing)}")
    if _read_state() is None:
        _state_file().unlink(missing_ok=True)
        log = cache_directory() / "cluster.log"
        with log.open("w") as output:
            server = subprocess.Popen(
                [sys.executable, "-m", "testbed", "serve"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(
            lambda: _read_state() is not None or server.poll() is not None,
            seconds=UP_SECONDS,
            what="the cluster",
        )
        if _read_state() is None:
            raise click.ClickException(f"the cluster did not start:\n{log.read_text()[-3000:]}")
    _print_state()


@main.command()
def status() -> None:
    """Say whether a cluster runs, and how to reach it."""
    _print_state()


@main.command()
def down() -> None:
    """Stop the cluster, and remove what a killed one left."""
    if state := _read_state():
        os.kill(state["pid"], signal.SIGTERM)
        wait_until(lambda: _read_state() is None, seconds=DOWN_SECONDS, what="the cluster to stop")
    sweep_leftovers()
    click.echo("no cluster runs")


@main.command(hidden=True)
def serve() -> None:
    """Hold a cluster until SIGTERM."""
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    cluster = Cluster(list_project_images(find_repository()))
    minio = MinioServer(cluster.directory / "minio", address=cluster.host_address)
    try:
        cluster.start()
        minio.start()
        if not minio.connect().bucket_exists(BUCKET):
            minio.create_bucket(BUCKET)
        state = {
            "pid": os.getpid(),
            "kubeconfig": str(cluster.control_plane.kubeconfig),
            "endpoint": minio.endpoint,
            "bucket": BUCKET,
            "access_key": minio.access_key,
            "secret_key": minio.secret_key,
        }
        partial = _state_file().with_suffix(".new")
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(state))
        partial.replace(_state_file())
        signal.sigwait(signals)
    finally:
        minio.stop()
        cluster.stop()
        _state_file().unlink(missing_ok=True)


def _state_file() -> Path:
    return cache_directory() / "cluster.json"


def _read_state() -> dict[str, Any] | None:
    """What the running server wrote; None where none runs."""
    if not _state_file().exists():
        return None
    state = json.loads(_state_file().read_text())
    command = Path(f"/proc/{state['pid']}/cmdline")
    return state if command.exists() and b"testbed" in command.read_bytes() else None


def _print_state() -> None:
    state = _read_state()
    if state is None:
        click.echo("no cluster runs")
        return
    click.echo(f"export KUBECONFIG={state['kubeconfig']}")
    for name in ("endpoint", "bucket", "access_key", "secret_key"):
        click.echo(f"# store {name}: {state[name]}")


if __name__ == "__main__":
    main()
