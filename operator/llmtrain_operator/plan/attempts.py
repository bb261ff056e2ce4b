"""Taking note of workers that ended without success, each exactly once.

Below: `workers` finds them, `failures` judges them, `ladder` answers. Above: `plan_job` starts
with this: what has ended decides what comes next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from llmtrain_api import JobStatus, LLMTrainingJob
from llmtrain_api.status import MAX_ATTEMPTS_KEPT, Attempt, AvoidedNode
from llmtrain_operator.plan.conditions import format_time
from llmtrain_operator.plan.failures import Verdict, judge_failure
from llmtrain_operator.plan.ladder import (
    End,
    find_early_end,
    find_spent_budget,
    must_restart_group,
)
from llmtrain_operator.plan.nodes import judge_node, merge_avoided
from llmtrain_operator.plan.types import Event, EventKind, ObservedProcess, ProcessState
from llmtrain_operator.plan.workers import (
    LIVE_STATES,
    Worker,
    do_meet,
    find_uncounted_failures,
    has_vanished,
    list_outlived,
)

MAX_ATTEMPT_MESSAGE_CHARACTERS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Toll:
    """What the newly ended workers change in the status."""

    attempts: tuple[Attempt, ...]
    incarnations: dict[str, int]
    restarts: int
    failures: int
    failures_by_class: dict[str, int]
    restarts_group: bool
    """Replacing one worker did not help: all are to be started anew."""
    avoided: tuple[AvoidedNode, ...]
    """Nodes to keep away from."""
    end: End | None
    """Why no further attempt makes sense."""
    events: tuple[Event, ...]


def count_toll(
    job: LLMTrainingJob,
    workers: Sequence[Worker],
    passed: Sequence[Worker],
    *,
    were_all_there: bool,
    checkpoint_step: int | None,
    now: datetime,
) -> Toll:
    """Judge every worker that ended without success since the last status.

    Args:
        job: with that status.
        workers: of the stage that it is at; what ended here asks for an answer.
        passed: of the stages that are done. An operator that is killed before it could write may
            find that the one who took a failed one's place has succeeded meanwhile: that is
            counted, and answered already.
        were_all_there: the last status had seen all `workers`.
        checkpoint_step: of the newest committed checkpoint, as far as workers say.
        now: the present time.
    """
    status, policy = job.status, job.spec.run_policy
    attempts = list(status.attempts)
    incarnations = dict(status.incarnations)
    by_class = Counter(status.failures_by_class)
    restarts, failures = status.restarts, status.failures
    end: End | None = None
    restarts_group = False
    avoided: list[AvoidedNode] = []
    events: list[Event] = []
    replaced = [(worker, ended) for worker in passed for ended in _list_replaced(worker)]
    open_ones = [(w, ended) for w in workers for ended in _list_ended(w, were_all_there)]
    for worker, ended in (*replaced, *open_ones):
        verdict = judge_failure(ended, job.spec)
        attempts.append(_describe_attempt(ended, verdict, checkpoint_step, now))
        incarnations[worker.key] = ended.process.incarnation + 1
        restarts += 1
        by_class[verdict.failure_class] += 1
        failures += verdict.counts and policy.budgets.find_limit(verdict.failure_class) is None
        events.append(Event(kind=EventKind.WARNING, reason=verdict.reason, message=verdict.message))
        if (node := judge_node(attempts, now)) is not None:
            avoided.append(node)
            events.append(_tell_avoided(node))
        if worker in passed:
            continue  # whoever took its place has succeeded: that was the answer
        if end is None and not verdict.retry:
            end = End(reason=verdict.reason, message=verdict.message)
        end = end or find_early_end(attempts, policy)
        restarts_group = restarts_group or (do_meet(workers) and must_restart_group(attempts))
    if restarts_group:
        for worker in _list_bystanders(status, workers, incarnations):
            incarnations[worker.key] = worker.incarnation + 1
    last = attempts[-1].message if attempts else ""
    return Toll(
        attempts=tuple(attempts[-MAX_ATTEMPTS_KEPT:]),
        incarnations=incarnations,
        restarts=restarts,
        failures=failures,
        failures_by_class=dict(by_class),
        restarts_group=restarts_group,
        avoided=merge_avoided(status.avoided_nodes, avoided, now),
        end=end or find_spent_budget(failures, by_class, last, policy),
        events=tuple(events),
    )


def _list_ended(worker: Worker, were_all_there: bool) -> tuple[ObservedProcess, ...]:
    without_trace = [*list_outlived(worker)]
    failed = find_uncounted_failures(worker)
    if not failed and has_vanished(worker, were_all_there):
        without_trace.append(worker.incarnation)
    deleted = tuple(
        ObservedProcess(
            process=worker.start(incarnation), state=ProcessState.FAILED, ended_by="Deleted"
        )
        for incarnation in without_trace
    )
    return tuple(sorted(deleted + failed, key=lambda o: o.process.incarnation))


def _list_replaced(worker: Worker) -> tuple[ObservedProcess, ...]:
    """Return those that ended and whose place was taken. Of a stage that is done, no other one
    was missed: who is left over there is told to leave, or not needed any more.
    """
    if worker.newest is None:
        return ()
    newest = worker.newest.process.incarnation
    ended = _list_ended(worker, were_all_there=False)
    return tuple(o for o in ended if o.process.incarnation < newest)


def _tell_avoided(node: AvoidedNode) -> Event:
    message = f"Node {node.node} is avoided until {node.until}: {node.message}"
    return Event(kind=EventKind.WARNING, reason="NodeAvoided", message=message)


def _list_bystanders(
    status: JobStatus, workers: Sequence[Worker], incarnations: Mapping[str, int]
) -> tuple[Worker, ...]:
    """Return the workers at work that have not failed just now."""
    return tuple(
        worker
        for worker in workers
        if worker.newest is not None
        and worker.newest.state in LIVE_STATES
        and incarnations.get(worker.key, 0) == status.incarnations.get(worker.key, 0)
    )


def _describe_attempt(
    ended: ObservedProcess, verdict: Verdict, checkpoint_step: int | None, now: datetime
) -> Attempt:
    record = ended.exit_record
    return Attempt(
        stage=ended.process.stage,
        index=ended.process.index,
        incarnation=ended.process.incarnation,
        failure_class=verdict.failure_class,
        reason=verdict.reason,
        message=verdict.message[:MAX_ATTEMPT_MESSAGE_CHARACTERS],
        step=record.step if record is not None else None,
        checkpoint_step=checkpoint_step,
        exit_code=ended.exit_code,
        node=ended.node,
        finished_at=format_time(ended.finished_at or now),
    )
