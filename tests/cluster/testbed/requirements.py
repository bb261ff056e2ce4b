"""What a machine must have to run nodes, and its installation where that may be done.

The control plane and MinIO need none of it. ``python -m testbed build-nodes`` installs it;
`fixtures` asks this before it starts a node.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
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
    """What the machine lacks to run nodes, each in words."""
    if os.geteuid() != 0:
        return ["root"]
    if subprocess.run(NAMESPACES, capture_output=True).returncode != 0:
        return ["the right to make network, mount and process namespaces (CAP_SYS_ADMIN)"]
    return [f"{package} (Debian package)" for package in _find_missing_packages()]


def install_missing() -> None:
    """Install Debian's packages that are missing; nothing without root or without apt-get.

    Raises:
        RuntimeError: apt-get failed; its words are in the message.
    """
    packages = _find_missing_packages()
    if not packages or os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    sys.stderr.write(f"test bed: installing {', '.join(packages)}\n")
    started = time.monotonic()
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages],
    ):
        run = subprocess.run(command, env=environment, text=True, capture_output=True)
        if run.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{run.stdout[-2000:]}{run.stderr}")
    sys.stderr.write(f"test bed: installed them in {time.monotonic() - started:.0f} s\n")


def _find_missing_packages() -> list[str]:
    missing = [package for program, package in PACKAGES.items() if not shutil.which(program)]
    if not (CNI_PLUGINS / "bridge").exists():
        missing.append(CNI_PACKAGE)
    return missing


def find_repository() -> Path:
    """The root of the checkout that this test bed belongs to."""
    return next(path for path in Path(__file__).parents if (path / "pyproject.toml").exists())
