"""Why a process ended, and whether another attempt makes sense: an ordered chain of policies.

Below: the exit codes of the contract. Above: `attempts` asks `judge_failure` about each process
that ended without success. A policy is a small pure function that answers or passes on, as in
cert-manager's trigger policies; the first answer counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmtrain_api.records import RETRYABLE, ExitCode
from llmtrain_operator.plan.types import ObservedProcess

INFRASTRUCTURE_REASONS = {
    "Deleted": "it was deleted",
    "Evicted": "the node needed its room",
    "Interrupted": "the `llmtrain run` that it belonged to was killed",
    "NodeLost": "its node is gone or does not answer",
    "NodeShutdown": "its node shut down",
    "Preempted": "a more important pod took its place",
}
"""`ObservedProcess.ended_by` values that say nothing against the job itself."""

SIGNAL_EXIT_CODE_BASE = 128
"""A shell or the kubelet adds the signal's number to this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to make of a process that ended without success."""

    reason: str
    """One CamelCase word."""
    message: str
    """What happened and what to do, for people."""
    retry: bool
    """Another attempt can end differently."""
    counts: bool
    """It counts against `runPolicy.restartLimit`."""


Policy = Callable[[ObservedProcess], Verdict | None]


def judge_failure(ended: ObservedProcess) -> Verdict:
    """Return the verdict of the first policy that has one."""
    for policy in POLICIES:
        if (verdict := policy(ended)) is not None:
            return verdict
    raise AssertionError("the last policy answers always")


def _judge_infrastructure(ended: ObservedProcess) -> Verdict | None:
    why = INFRASTRUCTURE_REASONS.get(ended.ended_by)
    if why is None:
        return None
    return Verdict(
        reason=ended.ended_by,
        message=f"{ended.process.name} ended: {why}",
        retry=True,
        counts=False,
    )


def _judge_preemption(ended: ObservedProcess) -> Verdict | None:
    record = ended.exit_record
    if record is None or record.code is not ExitCode.PREEMPTED:
        return None
    return Verdict(
        reason="PreemptedSaved",
        message=f"{ended.process.name} was asked to leave and saved its state first",
        retry=True,
        counts=False,
    )


def _judge_lost_peer(ended: ObservedProcess) -> Verdict | None:
    record = ended.exit_record
    if record is None or record.code is not ExitCode.PEER_LOST:
        return None
    return Verdict(reason=record.reason, message=record.message, retry=True, counts=False)


def _judge_memory(ended: ObservedProcess) -> Verdict | None:
    if ended.ended_by != "OOMKilled":
        return None
    return Verdict(
        reason="WorkerOOMKilled",
        message=f"{ended.process.name} took more than workers.resources.memory and was killed; "
        "raise it, or lower training.microBatchSize",
        retry=True,
        counts=True,
    )


def _judge_exit_record(ended: ObservedProcess) -> Verdict | None:
    record = ended.exit_record
    if record is None or record.code is ExitCode.SUCCEEDED:
        return None
    return Verdict(
        reason=record.reason,
        message=_join(record.message, record.next_step),
        retry=record.code in RETRYABLE,
        counts=True,
    )


def _join(message: str, next_step: str) -> str:
    """Put what happened and what to do into one line."""
    if not next_step:
        return message
    return f"{message}{' ' if message.endswith('.') else '; '}{next_step}"


def _judge_exit_code(ended: ObservedProcess) -> Verdict | None:
    code = ended.exit_code
    if code is None:
        return None
    if code > SIGNAL_EXIT_CODE_BASE:
        signal = code - SIGNAL_EXIT_CODE_BASE
        message = f"{ended.process.name} was killed by signal {signal} and left no exit record"
        return Verdict(reason="WorkerKilled", message=message, retry=True, counts=True)
    message = f"{ended.process.name} ended with exit code {code} and left no exit record"
    return Verdict(reason="WorkerCrashed", message=message, retry=True, counts=True)


def _judge_unknown(ended: ObservedProcess) -> Verdict:
    why = ended.ended_by or "the platform does not say why"
    return Verdict(
        reason="WorkerFailed",
        message=f"{ended.process.name} ended: {why}",
        retry=True,
        counts=True,
    )


POLICIES: tuple[Policy, ...] = (
    # The platform took the process away: whatever else it left is a consequence.
    _judge_infrastructure,
    # It left because it was told to, with its state saved.
    _judge_preemption,
    # It ended because another one did: that one is judged for it.
    _judge_lost_peer,
    # The kernel's word on memory beats an agent that could not write a record any more.
    _judge_memory,
    # The process itself said why.
    _judge_exit_record,
    # It could not say why: the exit code is all there is.
    _judge_exit_code,
    _judge_unknown,
)
