"""What a check found, and the table that says so.

Below: rich. Above: `machine` and `cluster_checks` find, `doctor` prints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from rich.console import Console
from rich.table import Table
from rich.text import Text


class Verdict(StrEnum):
    """How good a finding is."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"


STYLES = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.MISSING: "bold red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    verdict: Verdict
    said: str
    """What is there, or is not."""
    advice: str = ""
    """What to do about it; empty: nothing."""


def print_findings(title: str, findings: Sequence[Finding], console: Console) -> None:
    """Print a table of findings under a title."""
    console.print(Text(title, style="bold"))
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        said = Text(finding.said)
        if finding.advice:
            said.append(f"\n→ {finding.advice}", style=STYLES[finding.verdict])
        verdict = Text(finding.verdict.value, style=STYLES[finding.verdict])
        table.add_row(verdict, finding.subject, said)
    console.print(table)


def lacks_something(findings: Sequence[Finding]) -> bool:
    """Tell whether something required is missing."""
    return any(finding.verdict is Verdict.MISSING for finding in findings)
