"""The commands that the documentation shows, so that tests run what readers will type.

Below: the Markdown of the repository. Above: the tests of the documentation, and the end-to-end
test, which installs and applies by the README's own words.
"""

from __future__ import annotations

import re
from pathlib import Path

from testbed.requirements import find_repository

SHELL_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def list_documents() -> list[Path]:
    """Every page that people read."""
    root = find_repository()
    return [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md"))]


def list_commands(document: Path) -> list[str]:
    """The commands in the shell blocks of a page, in order."""
    blocks = SHELL_BLOCK.findall(document.read_text(encoding="utf-8"))
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def find_command(start: str, page: str = "README.md") -> str:
    """The one command of a page that begins so.

    Raises:
        LookupError: there is none, or several.
    """
    found = [c for c in list_commands(find_repository() / page) if c.startswith(start)]
    if len(found) != 1:
        raise LookupError(f"{page} shows {len(found)} commands that begin with {start!r}: {found}")
    return found[0]
