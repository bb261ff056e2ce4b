"""What this machine has: cores, memory, and the packages that llmtrain asks for.

Below: the operating system, and what the installer wrote down. Above: `machine_checks` judges
it; `run` and `submit` refuse to begin without their packages.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

DISTRIBUTION = "llmtrain"
TRAINER_MODULES = ("torch", "transformers")
OPERATOR_MODULES = ("aiohttp", "kubernetes", "prometheus_client")
CONTROL_GROUPS = Path("/sys/fs/cgroup")
MEMORY_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
"""Of both versions of Linux' control groups, as a container sees them."""

KIBIBYTE = 1024

GPU_SECONDS = 10.0
"""A driver that does not answer in this time is none to train with."""

_REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)\s*(?P<bounds>[^;\s]*)\s*"
    r"(?:;\s*extra\s*==\s*['\"](?P<extra>[a-z]+)['\"])?"
)
_BOUND = re.compile(r"(>=|<)([0-9.]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A package that llmtrain asks for, as `torch >=2.13,<3` of the extra `trainer`."""

    name: str
    bounds: str
    extra: str
    """Empty: always asked for."""

    def allows(self, version: str) -> bool:
        """Tell whether a version lies within the bounds."""
        found = _read_version(version)
        for operator, text in _BOUND.findall(self.bounds):
            bound = _read_version(text)
            if not (found >= bound if operator == ">=" else found < bound):
                return False
        return True


def list_requirements() -> tuple[Requirement, ...]:
    """Return what llmtrain asks for, from the metadata that it was installed with."""
    return tuple(
        parse_requirement(text) for text in importlib.metadata.requires(DISTRIBUTION) or ()
    )


def parse_requirement(text: str) -> Requirement:
    """Read a requirement of ours: a name, bounds by >= and <, and an extra.

    Raises:
        ValueError: it says more than that.
    """
    match = _REQUIREMENT.fullmatch(text.strip())
    if match is None or _BOUND.sub("", match["bounds"]).strip(","):
        raise ValueError(f"{text!r} is no `name>=version,<version; extra == 'name'`")
    return Requirement(name=match["name"], bounds=match["bounds"], extra=match["extra"] or "")


def find_version(package: str) -> str | None:
    """Return the installed version of a package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def are_installed(modules: Sequence[str]) -> bool:
    """Tell whether modules can be imported, without importing them."""
    return all(importlib.util.find_spec(name) is not None for name in modules)


def require_packages(modules: Sequence[str], *, extra: str) -> None:
    """Refuse to begin where packages of an extra are not installed.

    Raises:
        click.ClickException: names what to install.
    """
    missing = [name for name in modules if not are_installed([name])]
    if missing:
        names = " and ".join(missing)
        raise click.ClickException(f"{names} not installed: pip install '{DISTRIBUTION}[{extra}]'")


def count_cores() -> int:
    """Return the cores that this process may use, a container's limit included."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return max(1, min([cores, *(int(limit) for limit in _read_core_limits())]))


def measure_memory() -> int:
    """Return the bytes of memory that are free on the machine, at most a container's limit."""
    limits = (_read_number(CONTROL_GROUPS / name) for name in MEMORY_LIMITS)
    return min([_read_free_memory(), *(limit for limit in limits if limit is not None)])


def list_gpus() -> list[str]:
    """Return the names of the GPUs that NVIDIA's driver sees."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=name", "--format=csv,noheader"]
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=GPU_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return run.stdout.splitlines() if run.returncode == 0 else []


def find_torch_cuda() -> str | None:
    """Return the CUDA version that torch was built for, without importing it; None: no CUDA."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    match = re.search(r"^cuda\b[^=\n]*=\s*'([^']+)'", text, re.MULTILINE)
    return match[1] if match else None


def _read_version(text: str) -> tuple[int, ...]:
    """Read the numbers of a version: 2.13.0+cpu is (2, 13, 0)."""
    match = re.match(r"[0-9]+(\.[0-9]+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _read_core_limits() -> Iterator[float]:
    """Give the limit of cores in either version of Linux' control groups, where there is one."""
    try:
        quota, period = (CONTROL_GROUPS / "cpu.max").read_text(encoding="utf-8").split()
        yield int(quota) / int(period)
    except (OSError, ValueError):  # no such file, or `max`
        pass
    old_quota = _read_number(CONTROL_GROUPS / "cpu/cpu.cfs_quota_us")
    old_period = _read_number(CONTROL_GROUPS / "cpu/cpu.cfs_period_us")
    if old_quota is not None and old_quota > 0 and old_period:
        yield old_quota / old_period


def _read_free_memory() -> int:
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
        (kibibytes,) = re.findall(r"^MemAvailable:\s+(\d+) kB$", text, re.MULTILINE)
        return int(kibibytes) * KIBIBYTE
    except (OSError, ValueError):
        # Not Linux: without more packages, what is installed is all that can be asked for.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
