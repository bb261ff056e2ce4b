"""Every fault, torn writes and the soak; goes on where it was broken off; writes `docs/faults.md`.

    python tests/bench/bench_faults.py --kills 200

What has passed is kept in the cache, under a digest of the code, and not done again. Tests that
need real nodes are left out where the machine lacks what these need, and the document says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import click

from testbed.agent_world import AgentWorld
from testbed.cache import cache_directory
from testbed.cluster import Cluster
from testbed.control_plane import ControlPlane
from testbed.fault_log import read_records
from testbed.fault_report import render_report, summarize
from testbed.installation import Installation
from testbed.minio import MinioServer
from testbed.requirements import find_missing, find_repository
from testbed.soak import STEPS_PER_KILL, SoakResult, SoakWorld, run_soak
from testbed.soak_agents import SoakAgents
from testbed.soak_machine import SoakMachine
from testbed.soak_nodes import SoakNodes, offer_nodes

ROOT = find_repository()
CODE = ("crds", "operator", "trainer_image", "helm", "tests", "pyproject.toml", "uv.lock")
KILLS_PER_RUN = 20
STEPS = KILLS_PER_RUN * STEPS_PER_KILL
AGENTS_EVERY = 4
NODES_EVERY = 10
"""Of so many runs of the soak, one is in a cluster, or on real nodes; the others on one machine."""
FIRST_SEED = 1


@click.command()
@click.option("--kills", default=200, show_default=True, help="random kills of the soak")
@click.option("--tests/--no-tests", "with_tests", default=True, help="run the tests of faults")
@click.option("--write/--no-write", default=True, help="write docs/faults.md and its figures")
def main(kills: int, with_tests: bool, write: bool) -> None:
    """Run what has not passed yet, and say how all of it went."""
    folder = cache_directory() / "faults" / digest_code()
    folder.mkdir(parents=True, exist_ok=True)
    click.echo(f"what is done is kept in {folder}")
    tests = folder / "tests"
    if with_tests:
        run_tests(tests)
    soaks = soak(folder, num_runs=-(-kills // KILLS_PER_RUN))
    records = read_records(tests)
    now = datetime.now(UTC)
    if write:
        load = os.getloadavg()[-1]
        machine = f"{os.cpu_count()} {platform.machine()} cores with a load of {load:.1f}"
        report = render_report(records, soaks, day=f"{now:%Y-%m-%d}", machine=machine)
        (ROOT / "docs" / "faults.md").write_text(report)
        figures = {
            "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load": load},
            "tests": [asdict(record) for record in records],
            "soak": [asdict(result) for result in soaks],
        }
        path = ROOT / "docs" / "benchmarks" / f"faults-{now:%Y-%m-%d}.json"
        path.write_text(json.dumps(figures, indent=1) + "\n")
    click.echo(summarize(records, soaks))
    is_whole = all(r.outcome == "passed" for r in records) and not any(s.complaints for s in soaks)
    sys.exit(0 if is_whole else 1)


def digest_code() -> str:
    """Return a digest of all that decides what the tests do."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *CODE],
        cwd=ROOT, check=True, capture_output=True,
    ).stdout  # fmt: skip
    digest = hashlib.sha256()
    for name in sorted(filter(None, listed.split(b"\0"))):
        path = ROOT / os.fsdecode(name)
        if path.is_file():
            digest.update(name + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def run_tests(folder: Path) -> None:
    """Run the tests of faults that have not passed into `folder`."""
    command = [sys.executable, "-m", "pytest", "-q", "tests", f"--fault-log={folder}"]
    if missing := find_missing():
        click.echo(f"without real nodes, for want of {', '.join(missing)}")
        command += ["-m", "not nodes"]
    subprocess.run(command, cwd=ROOT)


def soak(folder: Path, *, num_runs: int) -> list[SoakResult]:
    """Do the runs that have no result yet; return all of them."""
    results = []
    in_cluster = num_runs // AGENTS_EVERY
    on_nodes = 0 if find_missing() else num_runs // NODES_EVERY
    with offer_control_plane() as give, offer_shared_nodes() as give_nodes:
        for name, number, make in (
            ("nodes", on_nodes, lambda path: SoakNodes(*give_nodes())),
            ("agents", in_cluster, lambda path: SoakAgents(give(path))),
            ("machine", num_runs - in_cluster - on_nodes, lambda path: SoakMachine(path)),
        ):
            if number == 0:
                continue
            expected = None
            for seed in (None, *range(FIRST_SEED, FIRST_SEED + number)):
                path = folder / f"soak-{name}-{'undisturbed' if seed is None else seed}.json"
                if not path.exists():
                    run_one(make, seed, expected).write(path)
                result = SoakResult.read(path)
                expected = expected or result.digest
                results.append(result)
                click.echo(f"{name} {seed}: {result.kills} {result.complaints or 'well'}")
    return results


def run_one(
    make: Callable[[Path], SoakWorld], seed: int | None, expected: str | None
) -> SoakResult:
    """Do one run of the soak in a world of its own."""
    with tempfile.TemporaryDirectory() as directory:
        world = make(Path(directory))
        try:
            return run_soak(
                world, seed=seed, num_kills=KILLS_PER_RUN, steps=STEPS, expected=expected
            )
        finally:
            world.close()


@contextmanager
def offer_control_plane() -> Iterator[Callable[[Path], AgentWorld]]:
    """Give worlds on one control plane, which is started when the first is asked for."""
    with tempfile.TemporaryDirectory() as directory:
        plane: list[ControlPlane] = []

        def give(path: Path) -> AgentWorld:
            if not plane:
                plane.append(ControlPlane(Path(directory)))
                plane[0].start()
                plane[0].define(ROOT / "crds" / "llmtrainingjobs.yaml")
            namespace = f"soak-{secrets.token_hex(4)}"
            plane[0].create_namespace(namespace)
            return AgentWorld(plane[0], namespace, path)

        try:
            yield give
        finally:
            for each in plane:
                each.stop()


@contextmanager
def offer_shared_nodes() -> Iterator[Callable[[], tuple[Cluster, Installation, MinioServer]]]:
    """Give the same two nodes to each world, started when the first one asks."""
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:

        @cache
        def give() -> tuple[Cluster, Installation, MinioServer]:
            return stack.enter_context(offer_nodes(Path(directory)))

        yield give


if __name__ == "__main__":
    main()
