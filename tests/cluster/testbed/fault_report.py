"""The document of faults, written from what tests and soak have kept. Pure.

Below: `fault_table`, `fault_log`, `soak`. Above: `tests/bench/bench_faults.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from testbed.fault_log import FaultRecord
from testbed.fault_table import FAULTS, Fault, World
from testbed.soak import SoakResult

MAX_SAID_CHARACTERS = 220
PASSED = "passed"
COMMAND = re.compile(r"^kubectl .*?: (?=The |Error)", re.DOTALL)
"""What our words for a refusal of kubectl begin with."""

WORLDS = """| world | what is real there |
|---|---|
| ranks | ranks or agents of the trainer, a folder or a MinIO for a store; no operator |
| machine | `llmtrain run`: the operator's own loop and agents on one machine |
| apiserver | control plane and operator process; what kubelets say is written by the test |
| agents | control plane, operator process and MinIO; pods are agents on this machine |
| nodes | two nodes with kubelets and containerd, the project's images, chart and MinIO |
"""


def render_report(
    records: Sequence[FaultRecord], soaks: Sequence[SoakResult], *, day: str, machine: str
) -> str:
    """Return the document as Markdown."""
    rows = [row for fault in FAULTS for row in _render_fault(fault, records)]
    passed = sum(record.outcome == PASSED for record in records)
    proved = {record.number for record in records if record.outcome == PASSED}
    return "\n".join(
        [
            "# Faults",
            "",
            f"Written by `make bench-faults` on {day}, on {machine}. Every fault is really made:",
            "processes are killed by SIGKILL, pods and nodes go, servers fall silent. The seconds",
            "run from the fault until it was said, and until work that counts went on.",
            f"{passed} of {len(records)} tests passed; {len(proved)} of {len(FAULTS)} faults have",
            "one that did. What to do in each case is in [operations.md](operations.md).",
            "",
            "| # | fault | what should be seen | where | what was said | said, s | work, s |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            WORLDS,
            "## Random kills",
            "",
            *_render_soak(soaks),
            "",
        ]
    )


def summarize(records: Sequence[FaultRecord], soaks: Sequence[SoakResult]) -> str:
    """Return a few lines for the end of a run."""
    failed = [record.test for record in records if record.outcome != PASSED]
    kills = sum(soak.num_kills for soak in soaks)
    broken = [
        f"{soak.world}, seed {soak.seed}: {soak.complaints}" for soak in soaks if soak.complaints
    ]
    lines = [
        f"{len(records) - len(failed)} of {len(records)} tests of faults passed",
        f"{kills} random kills in {sum(soak.seed is not None for soak in soaks)} runs, "
        f"{len(broken)} of them with complaints",
        *(f"FAILED {test}" for test in failed),
        *(f"BROKEN {text}" for text in broken),
    ]
    return "\n".join(lines)


def _render_fault(fault: Fault, records: Iterable[FaultRecord]) -> list[str]:
    found = [record for record in records if record.number == fault.number]
    if not found:
        return [f"| {fault.number} | {fault.what} | {fault.expected} | | no test yet | | |"]
    chosen: dict[World, FaultRecord] = {}
    for record in found:
        best = chosen.get(record.world)
        if best is None or _rank(record) > _rank(best):
            chosen[record.world] = record
    rows: list[str] = []
    for record in chosen.values():
        said = record.sightings[0] if record.sightings else None
        count = sum(other.world == record.world for other in found)
        bad = [other for other in found if other.world == record.world and other.outcome != PASSED]
        text = _shorten(said.text) if said else "as expected"
        if bad:
            text = f"**{len(bad)} of {count} tests failed**"
        elif count > 1:
            text += f" ({count} tests)"
        head = f"| {fault.number} | {fault.what} | {fault.expected}" if not rows else "| | | "
        rows.append(
            f"{head} | {record.world} | {text} | {_show(said.seconds if said else None)} "
            f"| {_show(record.seconds_down)} |"
        )
    return rows


def _rank(record: FaultRecord) -> tuple[bool, int]:
    return record.seconds_down is not None, len(record.sightings)


def _render_soak(soaks: Sequence[SoakResult]) -> list[str]:
    killed = [soak for soak in soaks if soak.seed is not None]
    if not killed:
        return ["None were made."]
    lines = [
        "Each run is killed again and again, at moments drawn by its seed, and must then end with",
        "the same losses and weights, bit for bit, as the run that nothing happened to; no round",
        "may begin before the newest committed checkpoint, no attempt be counted twice.",
        "",
        "| world | runs | kills | of what | ended alike | promises broken |",
        "|---|---|---|---|---|---|",
    ]
    for world in sorted({soak.world for soak in killed}):
        of_world = [soak for soak in killed if soak.world == world]
        kinds: Counter[str] = Counter()
        for soak in of_world:
            kinds.update(soak.kills)
        what = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
        alike = sum(not any("differ" in each for each in soak.complaints) for soak in of_world)
        broken = sum(len(soak.complaints) for soak in of_world)
        lines.append(
            f"| {world} | {len(of_world)} | {kinds.total()} | {what} "
            f"| {alike} of {len(of_world)} | {broken} |"
        )
    return lines


def _shorten(text: str) -> str:
    line = " ".join(COMMAND.sub("", text).split()).replace("|", "\\|").replace("<", "&lt;")
    return line if len(line) <= MAX_SAID_CHARACTERS else f"{line[:MAX_SAID_CHARACTERS]}…"


def _show(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f}"
