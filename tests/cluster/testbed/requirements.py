"""What a machine must have to run nodes, and its installation where that may be done.

The control plane and MinIO need none of it. `fixtures` asks this before it starts a node.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from testbed.network import CNI_PLUGINS

# Program on PATH, and the Debian package that has it.
PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "ip": "iproute2",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
    "prometheus": "prometheus",
}
CNI_PACKAGE = "containernetworking-plugins"
NAMESPACES = ("unshare", "--net", "--mount", "--pid", "--fork", "true")


def find_missing() -> list[str]:
    """What the machine lacks to run nodes, each in words; programs are installed where possible.

    Installing needs root and apt-get; a machine that has everything is not touched.
    """
    if os.geteuid() != 0:
        return ["root"]
    if subprocess.run(NAMESPACES, capture_output=True).returncode != 0:
        return ["the right to make network, mount and process namespaces (CAP_SYS_ADMIN)"]
    if _find_missing_packages() and shutil.which("apt-get"):
        _install(_find_missing_packages())
    return [f"{package} (Debian package)" for package in _find_missing_packages()]


def _find_missing_packages() -> list[str]:
    missing = [package for program, package in PACKAGES.items() if not shutil.which(program)]
    if not (CNI_PLUGINS / "bridge").exists():
        missing.append(CNI_PACKAGE)
    return missing


def _install(packages: list[str]) -> None:
    sys.stderr.write(f"test bed: installing {', '.join(packages)}\n")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages],
    ):
        run = subprocess.run(command, env=environment, text=True, capture_output=True)
        if run.returncode != 0:
            sys.stderr.write(f"test bed: {' '.join(command)} failed:\n{run.stderr}\n")


def find_repository() -> Path:
    """The root of the checkout that this test bed belongs to."""
    return next(path for path in Path(__file__).parents if (path / "pyproject.toml").exists())
