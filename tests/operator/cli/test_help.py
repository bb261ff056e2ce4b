"""`llmtrain --help` needs nothing heavy, and every command explains itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llmtrain_operator.cli import main
from testbed.command_line import CommandLine

HEAVY = ("torch", "transformers", "kubernetes", "aiohttp", "pydantic", "yaml", "rich", "numpy")

COMMANDS = (
    "checkpoints",
    "compare",
    "data",
    "demo",
    "doctor",
    "learning-rate",
    "logs",
    "next",
    "plan",
    "run",
    "search",
    "status",
    "submit",
)


def test_nothing_heavy_is_imported_for_help() -> None:
    program = (
        "import sys, llmtrain_operator.cli as cli\n"
        "try:\n"
        "    cli.main(['--help'])\n"
        "finally:\n"
        f"    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0
    assert run.stderr.strip() == "[]"


def test_the_commands_are_known(llmtrain: CommandLine) -> None:
    assert sorted(main.commands) == list(COMMANDS)
    said = llmtrain("--help").stdout
    assert all(f"\n  {command} " in said for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(llmtrain: CommandLine, command: str) -> None:
    run = llmtrain(command, "--help")
    assert run.returncode == 0
    assert run.stdout.startswith(f"Usage: llmtrain {command}")


@pytest.mark.parametrize("command", ["status", "logs"])
def test_what_is_local_says_how_it_is_asked_in_a_cluster(
    llmtrain: CommandLine, command: str
) -> None:
    assert "In a cluster: kubectl " in llmtrain(command, "--help").stdout


def test_a_manifest_that_is_not_there_is_named(llmtrain: CommandLine) -> None:
    run = llmtrain("run", "absent.yaml")
    assert run.returncode == 2
    assert "absent.yaml" in run.stderr
