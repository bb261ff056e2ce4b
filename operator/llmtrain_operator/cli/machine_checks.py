"""What this machine lacks for `llmtrain run` and `llmtrain demo`.

Below: `machine` says what is there, the local world where its ports are. Above: `doctor`.
"""

from __future__ import annotations

import fcntl
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from llmtrain_operator.cli.corpus import carries_corpus
from llmtrain_operator.cli.findings import Finding, Verdict
from llmtrain_operator.cli.machine import (
    DISTRIBUTION,
    Requirement,
    count_cores,
    find_torch_cuda,
    find_version,
    list_gpus,
    list_requirements,
    measure_memory,
)
from llmtrain_operator.world.local import FIRST_PORT, LAST_PORT, find_free_ports

GIBIBYTE = 1024**3
MIN_CORES = 2
MIN_MEMORY_BYTES = 2 * GIBIBYTE
"""The demo takes 1.4 GiB at its peak, most of it for torch, which each worker imports."""
MIN_DISK_BYTES = 1 * GIBIBYTE
"""The demo writes 35 MiB; models that are worth keeping write more."""
MIN_PORTS = 2

EXTRAS = {
    "": ("packages", Verdict.MISSING),
    "trainer": ("packages that train", Verdict.MISSING),
    "operator": ("packages for clusters", Verdict.WARNING),
}
"""What each extra is called here, and how bad it is where it is absent."""


def check_machine(store: Path) -> list[Finding]:
    """Look at everything that a local run needs."""
    requirements = list_requirements()
    return [
        _check_python(),
        *(_check_packages(requirements, extra) for extra in EXTRAS),
        _check_cores(),
        _check_memory(),
        _check_disk(store),
        _check_store(store),
        _check_ports(),
        _check_gpus(),
        _check_corpus(),
    ]


def judge_packages(
    requirements: Sequence[Requirement], versions: dict[str, str | None], extra: str
) -> Finding:
    """Compare what an extra asks for with the versions that are installed (None: not)."""
    subject, verdict = EXTRAS[extra]
    asked = [requirement for requirement in requirements if requirement.extra == extra]
    problems = []
    for requirement in asked:
        version = versions[requirement.name]
        if version is None:
            problems.append(f"{requirement.name} is not installed")
        elif not requirement.allows(version):
            problems.append(f"{requirement.name} is {version}, needed: {requirement.bounds}")
    if problems:
        name = f"{DISTRIBUTION}[{extra}]" if extra else DISTRIBUTION
        advice = f"pip install --upgrade '{name}'"
        return Finding(subject=subject, verdict=verdict, said="; ".join(problems), advice=advice)
    said = ", ".join(f"{requirement.name} {versions[requirement.name]}" for requirement in asked)
    return Finding(subject=subject, verdict=Verdict.OK, said=said)


def _check_python() -> Finding:
    said = f"{platform.python_version()}, {sys.executable}"
    return Finding(subject="Python", verdict=Verdict.OK, said=said)


def _check_packages(requirements: Sequence[Requirement], extra: str) -> Finding:
    versions = {requirement.name: find_version(requirement.name) for requirement in requirements}
    return judge_packages(requirements, versions, extra)


def _check_cores() -> Finding:
    cores = count_cores()
    if cores < MIN_CORES:
        advice = "Workers take turns: `llmtrain run --workers 1` is as fast."
        return Finding(subject="cores", verdict=Verdict.WARNING, said=str(cores), advice=advice)
    return Finding(subject="cores", verdict=Verdict.OK, said=str(cores))


def _check_memory() -> Finding:
    free = measure_memory()
    said = f"{free / GIBIBYTE:.1f} GiB free"
    if free < MIN_MEMORY_BYTES:
        advice = f"Free {MIN_MEMORY_BYTES / GIBIBYTE:g} GiB, or train fewer workers (--workers)."
        return Finding(subject="memory", verdict=Verdict.WARNING, said=said, advice=advice)
    return Finding(subject="memory", verdict=Verdict.OK, said=said)


def _check_disk(store: Path) -> Finding:
    free = shutil.disk_usage(_find_existing(store)).free
    said = f"{free / GIBIBYTE:.1f} GiB free at {store}"
    if free < MIN_DISK_BYTES:
        advice = f"Free {MIN_DISK_BYTES / GIBIBYTE:g} GiB, or name another folder with --store."
        return Finding(subject="disk", verdict=Verdict.WARNING, said=said, advice=advice)
    return Finding(subject="disk", verdict=Verdict.OK, said=said)


def _check_store(store: Path) -> Finding:
    """Write a file and lock it, as a run does."""
    folder = _find_existing(store)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return Finding(
            subject="store",
            verdict=Verdict.MISSING,
            said=f"{folder} takes no files with locks: {error.strerror}",
            advice="Name a folder on a disk of this machine with --store.",
        )
    there = "is there" if store.exists() else "will be made"
    return Finding(subject="store", verdict=Verdict.OK, said=f"{store} {there} and can be written")


def _check_ports() -> Finding:
    try:
        port = find_free_ports(MIN_PORTS, FIRST_PORT)
    except OSError as error:
        advice = f"Workers listen at 127.0.0.1 between {FIRST_PORT} and {LAST_PORT}: free some."
        return Finding(subject="ports", verdict=Verdict.MISSING, said=str(error), advice=advice)
    return Finding(subject="ports", verdict=Verdict.OK, said=f"free from {port} on")


def _check_gpus() -> Finding:
    gpus = list_gpus()
    if not gpus:
        said = "none seen (no nvidia-smi, or it finds none): training uses the processor"
        return Finding(subject="GPU", verdict=Verdict.OK, said=said)
    cuda = find_torch_cuda()
    if cuda is None:
        return Finding(
            subject="GPU",
            verdict=Verdict.WARNING,
            said=f"{', '.join(gpus)}; but torch is not there, or built without CUDA",
            advice="Install torch with CUDA (pytorch.org/get-started), or train on the processor.",
        )
    said = f"{', '.join(gpus)}; torch is built for CUDA {cuda}"
    return Finding(subject="GPU", verdict=Verdict.OK, said=said)


def _check_corpus() -> Finding:
    if carries_corpus():
        said = "this Python carries its manual and docstrings: enough for `llmtrain demo`"
        return Finding(subject="demo text", verdict=Verdict.OK, said=said)
    return Finding(
        subject="demo text",
        verdict=Verdict.WARNING,
        said="this Python's documentation has been stripped: `llmtrain demo` has nothing to read",
        advice="Only the demo needs it; use a Python from python.org or uv for that.",
    )


def _find_existing(path: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
