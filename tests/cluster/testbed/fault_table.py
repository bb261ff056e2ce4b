"""The faults that a training job must survive or explain, and what a person should then see.

Below: nothing. Above: `fault_log` keeps what the tests of each saw, `fault_report` writes it down.
A test says which fault it is about by `@pytest.mark.fault(number, world="…")`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class World(StrEnum):
    """How much of what is around a job is real where a fault happens."""

    RANKS = "ranks"
    """Real ranks or agents of the trainer, a folder or a MinIO for a store, and no operator."""
    MACHINE = "machine"
    """`llmtrain run`: the operator's own loop and real agents on one machine."""
    API = "apiserver"
    """A real control plane and operator process; what kubelets say is written by the test."""
    AGENTS = "agents"
    """A real control plane, operator process and MinIO; pods are real agents on this machine."""
    NODES = "nodes"
    """Two real nodes: kubelets, containerd, the project's images and chart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One row of the table."""

    number: int
    what: str
    expected: str


def _number(*rows: tuple[str, str]) -> tuple[Fault, ...]:
    return tuple(
        Fault(number=number, what=what, expected=expected)
        for number, (what, expected) in enumerate(rows, start=1)
    )


FAULTS = _number(
    (
        "operator killed after it created something, before it wrote the status",
        "one pod for each worker, each failure counted once, no event told twice",
    ),
    ("operator down while the job ends", "on return `Succeeded`, with the time at which it ended"),
    ("two operators, or one taking over", "one acts, the other waits for the Lease"),
    ("watch answered 410 Gone, or silent", "a new list within 70 s; a metric counts it"),
    ("apiserver answers 429 or 500 for minutes", "asked with growing waits; training unaffected"),
    ("worker out of memory", "the worker or rank and its limit are named; it is tried again"),
    ("node drained", "saved on SIGTERM, resumed elsewhere; costs nothing of the restart limit"),
    ("a rank stands still", "the rank is named after its learned limit; its stacks are kept"),
    ("GPU fault (ECC, Xid)", "the node is named and avoided"),
    ("only some pods can be scheduled", "`Unschedulable` with how many, in the scheduler's words"),
    ("image cannot be pulled", "image and registry's words in the status"),
    ("store unreachable at the start", "named before any training pod exists"),
    ("store dies in the middle", "training goes on; `CheckpointHealthy` False; saved later"),
    ("credentials expire in the middle", "`CheckpointHealthy` False names them; rotated, it saves"),
    ("upload of a checkpoint killed", "the newest whole checkpoint is used; no part counts as one"),
    ("flipped bit or truncated shard", "the step is refused by name, the one before it is used"),
    ("writer of an older attempt wakes up", "it is refused; what is committed stays"),
    ("store ignores conditional writes", "`StorageSafe` False before training begins"),
    ("disk full", "path and amount are named"),
    ("loss is not finite", "the step is named; nothing is exported"),
    ("bad data set", "file and line are named before any training pod exists"),
    ("unsafe artefact (pickle, remote code)", "refused; nothing of it is run"),
    ("bad spec", "the apiserver refuses it with field path and range"),
    ("spec edited while it runs", "refused; the field is named"),
    ("job or namespace deleted, no operator", "deletion completes; data stays; pods go"),
    ("two runs write below one prefix", "neither touches the other's objects"),
    ("quota reached", "the quota is named; its end is noticed"),
    ("resumed on another number of ranks", "the same order of data, the same losses"),
    ("clocks differ", "the Lease is taken by its own clock alone"),
)
"""Rows 1 to 25 in the order of the project's research, then what it lists below them."""


def find_fault(number: int) -> Fault:
    """Return a row by its number.

    Raises:
        LookupError: there is no such row.
    """
    if not 1 <= number <= len(FAULTS):
        raise LookupError(f"fault {number}: rows go from 1 to {len(FAULTS)}")
    return FAULTS[number - 1]
