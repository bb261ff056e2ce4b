"""Why a process ended: an ordered chain of policies, the first of which that answers counts.

Below: the failure classes of the contract. Above: `attempts` asks `judge_failure` about each
process that ended without success; what follows from the class is `ladder`'s. A policy is a small
pure function that answers or passes on, as in cert-manager's trigger policies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmtrain_api import JobSpec
from llmtrain_api.failures import CLASS_OF_EXIT_CODE, FATAL_CLASSES, FREE_CLASSES, FailureClass
from llmtrain_api.records import ExitCode
from llmtrain_operator.plan.types import ObservedProcess

NODE_LOST = "NodeLost"
"""`ObservedProcess.ended_by` where nobody is left on its node who could say anything."""

INFRASTRUCTURE_REASONS = {
    "Deleted": "it was deleted",
    "Evicted": "the node needed its room",
    "Interrupted": "the `llmtrain run` that it belonged to was killed",
    NODE_LOST: "its node is gone or does not answer",
    "NodeShutdown": "its node shut down",
    "Preempted": "a more important pod took its place",
}
"""`ObservedProcess.ended_by` values that say nothing against the job itself."""

CLASS_OF_INFRASTRUCTURE = {
    NODE_LOST: FailureClass.NODE_LOST,
    "NodeShutdown": FailureClass.NODE_LOST,
    "Preempted": FailureClass.PREEMPTED,
}
"""The others are infrastructure at large."""

ABSENT_PEER_REASONS = frozenset({"Superseded", "PeersMissing"})
"""Reasons of lost peers in which no peer ever failed: it is replaced, or has no place yet."""

UNSAVED = "PreemptedUnsaved"
"""Reason of a process that was told to leave and ended without having saved."""

SIGNAL_EXIT_CODE_BASE = 128
"""A shell or the kubelet adds the signal's number to this."""

SPACE_MARKS = ("ephemeral local storage", "local ephemeral storage", "EmptyDir volume")
"""How a kubelet says that it is the pod's own files that are more than its limits."""

CANNOT_START_REASONS = frozenset({"StartError", "ContainerCannotRun"})
"""`ObservedProcess.ended_by` where the image's program could not be started at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to make of a process that ended without success."""

    failure_class: FailureClass
    reason: str
    """One CamelCase word."""
    message: str
    """What happened and what to do, for people."""

    @property
    def retry(self) -> bool:
        """Another attempt can end differently."""
        return self.failure_class not in FATAL_CLASSES

    @property
    def counts(self) -> bool:
        """It says something against the job: it costs some budget of the user's."""
        return self.failure_class not in FREE_CLASSES


Policy = Callable[[ObservedProcess, JobSpec], Verdict | None]


def judge_failure(ended: ObservedProcess, spec: JobSpec) -> Verdict:
    """Return the verdict of the first policy that has one."""
    for policy in POLICIES:
        if (verdict := policy(ended, spec)) is not None:
            return verdict
    raise AssertionError("the last policy answers always")


def _judge_space(ended: ObservedProcess, spec: JobSpec) -> Verdict | None:
    said = ended.end_message
    if ended.ended_by != "Evicted" or not any(mark in said for mark in SPACE_MARKS):
        return None
    return Verdict(
        failure_class=FailureClass.NO_SPACE,
        reason="NoSpace",
        message=f"{_name_worker(ended, spec)} wrote more than its node lets it: {said.strip()}",
    )


def _judge_infrastructure(ended: ObservedProcess, spec: JobSpec) -> Verdict | None:
    why = INFRASTRUCTURE_REASONS.get(ended.ended_by)
    if why is None:
        return None
    where = f" (on {ended.node})" if ended.node else ""
    return Verdict(
        failure_class=CLASS_OF_INFRASTRUCTURE.get(ended.ended_by, FailureClass.INFRASTRUCTURE),
        reason=ended.ended_by,
        message=f"{ended.process.name} ended{where}: {why}",
    )


def _judge_preemption(ended: ObservedProcess, spec: JobSpec) -> Verdict | None:
    record = ended.exit_record
    if record is None or record.code is not ExitCode.PREEMPTED:
        return None
    where = f" (on {ended.node})" if ended.node else ""
    why = INFRASTRUCTURE_REASONS.get(ended.ended_by, "")
    if ended.ended_by == NODE_LOST:
        why = "its node is to be left"  # it was there to say so
    who = f"{ended.process.name}{where} was told to leave{f', since {why}' if why else ''}"
    if record.reason == UNSAVED:
        return Verdict(
            failure_class=FailureClass.PREEMPTED,
            reason="PreemptedUnsaved",
            message=f"{who}, and did not save: {record.message}",
        )
    return Verdict(
        failure_class=FailureClass.PREEMPTED,
        reason="PreemptedSaved",
        message=f"{who}, and saved its state first",
    )


def _judge_lost_peer(ended: ObservedProcess, spec: JobSpec) -> Verdict | None:
    record = ended.exit_record
    if record is None or record.code is not ExitCode.PEER_LOST:
        return None
    absent = record.reason in ABSENT_PEER_REASONS
    return Verdict(
        failure_class=FailureClass.INFRASTRUCTURE if absent else FailureClass.PEER_LOST,
        reason=record.reason,
        message=record.message,
    )


def _judge_memory(ended: ObservedProcess, spec: JobSpec) -> Verdict | None:
    if ended.ended_by != "OOMKilled":
        return None
    return Verdict(
        failure_class=FailureClass.HOST_MEMORY,
        reason="WorkerOOMKilled",
        message=f"{_name_worker(ended, spec)} took more than its limit of "
        f"{spec.workers.resources.memory} (workers.resources.memory) and was killed; raise it, or "
        "lower training.microBatchSize",
    )


def _judge_device(ended: ObservedProcess, spec: JobSpec) -> Verdict | None:
    record = ended.exit_record
    if record is None or record.code is not ExitCode.DEVICE_FAULT:
        return None
    where = f"node {ended.node}" if ended.node else "this machine"
    return Verdict(
        failure_class=FailureClass.DEVICE,
        reason=record.reason,
        message=_join(f"a GPU of {where} is broken: {record.message}", record.next_step),
    )


def _judge_exit_record(ended: ObservedProcess, spec: JobSpec) -> Verdict | None:
    record = ended.exit_record
    if record is None or record.code is ExitCode.SUCCEEDED:
        return None
    return Verdict(
        failure_class=CLASS_OF_EXIT_CODE[record.code],
        reason=record.reason,
        message=_join(record.message, record.next_step),
    )


def _judge_start(ended: ObservedProcess, spec: JobSpec) -> Verdict | None:
    if ended.ended_by not in CANNOT_START_REASONS:
        return None
    return Verdict(
        failure_class=FailureClass.IMAGE,
        reason="ImageCannotRun",
        message=f"the program of image {spec.workers.image} cannot be started as "
        f"{ended.process.name}; check workers.image",
    )


def _judge_exit_code(ended: ObservedProcess, spec: JobSpec) -> Verdict | None:
    code = ended.exit_code
    if code is None:
        return None
    name = ended.process.name
    if code > SIGNAL_EXIT_CODE_BASE:
        return Verdict(
            failure_class=FailureClass.CRASH,
            reason="WorkerKilled",
            message=f"{name} was killed by signal {code - SIGNAL_EXIT_CODE_BASE} and left no exit "
            "record",
        )
    return Verdict(
        failure_class=FailureClass.CRASH,
        reason="WorkerCrashed",
        message=f"{name} ended with exit code {code} and left no exit record",
    )


def _judge_unknown(ended: ObservedProcess, spec: JobSpec) -> Verdict:
    why = ended.ended_by or "the platform does not say why"
    return Verdict(
        failure_class=FailureClass.CRASH,
        reason="WorkerFailed",
        message=f"{ended.process.name} ended: {why}",
    )


POLICIES: tuple[Policy, ...] = (
    # The kubelet evicts for two things: the node's want of room, and a pod that wrote too much.
    _judge_space,
    # It left because it was told to, whoever told it: by a drain, a taint, or a more important pod.
    _judge_preemption,
    # The platform took the process away: whatever else it left is a consequence.
    _judge_infrastructure,
    # It ended because another one did: that one is judged for it.
    _judge_lost_peer,
    # The kernel's word on memory beats an agent that could not write a record any more.
    _judge_memory,
    # The process itself said why; of a broken GPU it does not know on which node it is.
    _judge_device,
    _judge_exit_record,
    # It never ran.
    _judge_start,
    # It could not say why: the exit code is all there is.
    _judge_exit_code,
    _judge_unknown,
)


def _join(message: str, next_step: str) -> str:
    """Put what happened and what to do into one line."""
    if not next_step:
        return message
    return f"{message}{' ' if message.endswith('.') else '; '}{next_step}"


def _name_worker(ended: ObservedProcess, spec: JobSpec) -> str:
    """Name a worker and the ranks that it holds, as "worker 1 (ranks 2-3, tiny-train-1-0)"."""
    process, per_worker = ended.process, spec.workers.processes_per_worker
    first = process.index * per_worker
    ranks = f"rank {first}" if per_worker == 1 else f"ranks {first}-{first + per_worker - 1}"
    return f"worker {process.index} ({ranks}, {process.name})"
