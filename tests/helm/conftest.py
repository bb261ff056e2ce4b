"""The chart, as Helm renders it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from testbed.binaries import ensure_binary

Helm = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Run helm; its exit code and output come back."""
    program = ensure_binary("helm")

    def run_helm(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *arguments], text=True, capture_output=True, timeout=60)

    return run_helm
