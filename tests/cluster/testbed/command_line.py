"""The command `llmtrain` as a process, in a folder and with an environment.

Below: the installed console script. Above: the tests of the command line.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from testbed.processes import ServerProcess

PROGRAM = Path(sys.executable).with_name("llmtrain")
COMMAND_SECONDS = 600

WIDE = {"COLUMNS": "200"}
"""Tables break no words that tests look for."""


class CommandLine:
    """Calls llmtrain."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        """Call it in `folder`, with `environment` added to that of the tests."""
        self.folder = folder
        self.environment = WIDE | dict(environment)
        self._num_started = 0

    def __call__(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run it to its end; its exit code and output come back."""
        return subprocess.run(
            [PROGRAM, *arguments],
            cwd=self.folder,
            env=os.environ | self.environment,
            text=True,
            capture_output=True,
            timeout=COMMAND_SECONDS,
        )

    def start(self, *arguments: str | Path) -> ServerProcess:
        """Start it; what it says goes to the log of the process that comes back, and no other."""
        self._num_started += 1
        process = ServerProcess(
            "llmtrain",
            ["env", f"--chdir={self.folder}", PROGRAM, *arguments],
            log=self.folder / f"llmtrain-{self._num_started}.log",
            environment=self.environment,
        )
        process.start()
        return process
