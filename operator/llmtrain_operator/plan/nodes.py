"""Nodes that a run has been hurt on twice, and leaves alone for a while.

Below: the attempts of the status. Above: `attempts` asks after each failure, `at_work` when a
worker finds no place; `render` keeps new pods away from them.

Which failures speak against a node: a broken GPU and a lost node do. Ranks that die or stand still
do only where all of them were on that node: a defect of the job goes with it from node to node.
The cluster's own administrators decide about a node for everybody; this is one run's caution.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from llmtrain_api.failures import FailureClass
from llmtrain_api.status import MAX_AVOIDED_NODES, Attempt, AvoidedNode
from llmtrain_operator.plan.conditions import format_time, parse_time
from llmtrain_operator.plan.types import ObservedProcess, ProcessState
from llmtrain_operator.plan.workers import Worker

HURTS_TO_AVOID = 2
"""Failures on a node after which it is avoided."""
MEMORY_SECONDS = 6 * 3600.0
"""Failures longer ago than this are forgotten."""
AVOID_SECONDS = 3600.0
"""How long a node is avoided, from the newest failure on."""
PLACE_SECONDS = 120.0
"""How long a worker may find no place before avoided nodes are allowed again."""

NODE_CLASSES = frozenset({FailureClass.DEVICE, FailureClass.NODE_LOST})
"""Failures that are the node's."""
PATTERN_CLASSES = frozenset({FailureClass.CRASH, FailureClass.HANG})
"""Failures that are the node's where they happen on no other."""


def judge_node(attempts: Sequence[Attempt], now: datetime) -> AvoidedNode | None:
    """Return the node of the newest attempt, if it is to be avoided from now on."""
    newest = attempts[-1]
    if newest.node is None or not _is_hurt(newest):
        return None
    hurts = [a for a in attempts if _is_hurt(a) and _is_remembered(a, now)]
    pattern = [a for a in hurts if a.failure_class in PATTERN_CLASSES]
    if any(a.node != newest.node for a in pattern):
        hurts = [a for a in hurts if a.failure_class in NODE_CLASSES]
    on_node = [a for a in hurts if a.node == newest.node]
    if len(on_node) < HURTS_TO_AVOID:
        return None
    reasons = ", ".join(dict.fromkeys(a.reason for a in on_node))
    return AvoidedNode(
        node=newest.node,
        reason=newest.reason,
        message=f"{len(on_node)} failures there ({reasons}); the last: {newest.message}"[:1024],
        until=format_time(now + timedelta(seconds=AVOID_SECONDS)),
    )


def merge_avoided(
    before: Sequence[AvoidedNode], new: Iterable[AvoidedNode], now: datetime
) -> tuple[AvoidedNode, ...]:
    """Return the nodes that are avoided now: those whose time is over are not any more."""
    merged = {avoided.node: avoided for avoided in before if parse_time(avoided.until) > now}
    for avoided in new:
        merged.pop(avoided.node, None)
        merged[avoided.node] = avoided
    return tuple(merged.values())[-MAX_AVOIDED_NODES:]


def allow_again(
    workers: Sequence[Worker], avoided: Sequence[AvoidedNode], now: datetime
) -> tuple[AvoidedNode, ...]:
    """Return the nodes to avoid: none, where a worker has found no other place for too long."""
    for worker in workers:
        waits = worker.newest
        if waits is None or not _is_unplaced(waits) or waits.created_at is None:
            continue
        waited = (now - waits.created_at).total_seconds()
        if waits.avoids & {a.node for a in avoided} and waited >= PLACE_SECONDS:
            return ()
    return tuple(avoided)


def avoids_too_much(worker: Worker, avoided: Sequence[AvoidedNode]) -> bool:
    """Tell whether a worker without a place keeps away from a node that it may use (again)."""
    waits = worker.newest
    return (
        waits is not None and _is_unplaced(waits) and not waits.avoids <= {a.node for a in avoided}
    )


def _is_unplaced(process: ObservedProcess) -> bool:
    return process.state is ProcessState.WAITING and process.waiting_reason == "Unschedulable"


def _is_hurt(attempt: Attempt) -> bool:
    return attempt.failure_class in NODE_CLASSES | PATTERN_CLASSES


def _is_remembered(attempt: Attempt, now: datetime) -> bool:
    return (
        attempt.finished_at is not None
        and (now - parse_time(attempt.finished_at)).total_seconds() < MEMORY_SECONDS
    )
