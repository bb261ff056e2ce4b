"""How far training is, from what worker 0 says, and what a new start of its ranks has cost.

Below: the contract's `ProgressRecord`. Above: `status` and `at_work` say it, `ledger` charges it.

A start of the ranks is known by (incarnation of worker 0, round within it). The stored progress
is of the newest start that has come to its first step, so each is taken note of once.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from llmtrain_api import JobSpec, ProgressRecord
from llmtrain_api.records import RankPhase, Stage, StageResult
from llmtrain_api.status import Attempt, Progress
from llmtrain_operator.plan.conditions import format_time
from llmtrain_operator.plan.types import Observed

UNBEGUN_PHASES = frozenset({RankPhase.STARTING, RankPhase.RENDEZVOUS, RankPhase.RESTORING})
"""Phases before a rank's first step."""

PERCENT = 100

LOSS_DECIMALS = 4
"""What `kubectl get` shows of a loss; `results` has every digit."""


def find_record(observed: Observed, stage: Stage | None) -> ProgressRecord | None:
    """Return what worker 0 last said, if it spoke of the stage."""
    record = observed.progress
    return record if record is not None and record.stage is stage else None


def is_at_work(record: ProgressRecord) -> bool:
    """Tell whether the ranks of the training stage have come to their first step."""
    if record.stage is not Stage.TRAIN or record.round == 0:
        return False
    # A round has no ranks at all before the first of them has said something.
    return any(rank.rank == 0 and rank.phase not in UNBEGUN_PHASES for rank in record.ranks)


def describe_progress(
    spec: JobSpec,
    before: Progress | None,
    record: ProgressRecord | None,
    now: datetime,
    *,
    committed_step: int | None = None,
) -> Progress | None:
    """Return the progress that worker 0 of the training stage reports, or the last known.

    A round that has not restored yet tells nothing: its step is not where training is.
    `committed_step` is that of the newest checkpoint that any worker has told of.
    """
    if record is None or not is_at_work(record):
        if before is None or before.steps_at_risk is None or committed_step is None:
            return before
        # Workers that were told to leave have saved since.
        at_risk = max(0, before.step - committed_step)
        return before.model_copy(update={"steps_at_risk": at_risk})
    if committed_step is None:
        committed_step = record.checkpoint_step or record.resumed_step or 0
    # A run of so many epochs knows its steps once it has opened its data.
    total = record.total_steps or spec.training.count_steps() or max(1, record.step)
    tokens_left = (total - record.step) * count_step_tokens(spec, record)
    speed = record.tokens_per_second
    loss, validation = record.loss, record.validation_loss
    if before is not None:
        loss = before.loss if loss is None else loss
        validation = before.validation_loss if validation is None else validation
    return Progress(
        step=record.step,
        total_steps=total,
        percent=min(PERCENT, PERCENT * record.step // total),
        loss=_round_loss(loss),
        validation_loss=_round_loss(validation),
        tokens_per_second=speed,
        utilization_percent=_to_percent(record.utilization),
        remaining_seconds=round(tokens_left / speed) if speed else None,
        loss_spikes=record.loss_spikes,
        rollbacks=record.rollbacks,
        skipped_batches=record.skipped_batches,
        steps_at_risk=max(0, record.step - committed_step),
        straggler=record.straggler,
        incarnation=record.incarnation,
        round=record.round,
        updated_at=format_time(now),
    )


def complete_progress(
    spec: JobSpec, before: Progress | None, results: StageResult, now: datetime
) -> Progress:
    """Return the progress of a training stage that is done; its last step may never be polled."""
    known = spec.training.count_steps() or (before.total_steps if before else 0)
    step = results.step or known  # early stopping ends before
    total = known or step
    values = before.model_dump() if before else {}
    values |= {"step": step, "total_steps": total, "percent": PERCENT, "remaining_seconds": None}
    values["steps_at_risk"] = 0
    if results.train_loss is not None:
        values["loss"] = _round_loss(results.train_loss)
    if before is None or before.step != step:
        values["updated_at"] = format_time(now)
    return Progress(**values)


def count_process_restarts(before: Progress | None, record: ProgressRecord | None) -> int:
    """Return how many times ranks were started anew within worker 0 since the stored progress.

    Both are written together, so that a restart counts once, whoever is killed in between.
    """
    if record is None or not is_at_work(record):
        return 0
    known = 1  # the first start of an incarnation is no restart
    if before is not None and before.incarnation == record.incarnation:
        known = max(known, before.round)
    elif before is not None and before.incarnation > record.incarnation:
        return 0
    return max(0, record.round - known)


def describe_straggler(
    record: ProgressRecord | None, per_worker: int, nodes: Sequence[str | None]
) -> str:
    """Say which worker the others wait for and where it is; empty where there is none.

    The figures are in the progress: they change all the time.

    `nodes` are those of the workers, by index; each holds `per_worker` ranks.
    """
    if record is None or not is_at_work(record) or not record.straggler:
        return ""
    worker = (record.straggler_rank or 0) // per_worker
    node = nodes[worker] if worker < len(nodes) else None
    where = f" on node {node}" if node else ""
    return f"The others wait for rank {record.straggler_rank}, of worker {worker}{where}"


def has_rolled_back(before: Progress | None, record: ProgressRecord | None) -> bool:
    """Tell whether the run went back to a checkpoint since the stored progress."""
    if record is None or not is_at_work(record):
        return False
    known = before.rollbacks if before is not None else None
    return (record.rollbacks or 0) > (known or 0)


def count_lost_steps(before: Progress | None, record: ProgressRecord | None) -> int | None:
    """Return the steps that a new start of the ranks has to repeat; None where there is none.

    It goes on from a checkpoint. How far the start before it had come is what the status says,
    and what worker 0 itself remembers, if it outlived the loss.
    """
    if before is None or record is None or not is_at_work(record):
        return None
    if (record.incarnation, record.round) <= (before.incarnation, before.round):
        return None
    reached = before.step
    if record.incarnation == before.incarnation and record.lost_step is not None:
        reached = max(reached, record.lost_step)
    return max(0, reached - (record.resumed_step or 0))


def settle_lost_steps(attempts: Sequence[Attempt], lost_steps: int) -> tuple[Attempt, ...]:
    """Return the attempts with the lost steps of a new start written to what made it necessary.

    Of several processes that ended since the start before it, the first one bears them: the
    others' steps were lost already.
    """
    settled = []
    for attempt in attempts:
        if attempt.stage is Stage.TRAIN and attempt.lost_steps is None:
            attempt = attempt.model_copy(update={"lost_steps": lost_steps})
            lost_steps = 0
        settled.append(attempt)
    return tuple(settled)


def _to_percent(share: float | None) -> int | None:
    return None if share is None else round(PERCENT * share)


def count_step_tokens(spec: JobSpec, record: ProgressRecord) -> float:
    """Return the tokens of a step, as the ranks count them, or as many as it has room for."""
    room = spec.training.global_batch * spec.training.sequence_length
    return record.step_tokens or float(room)


def _round_loss(loss: float | None) -> float | None:
    return None if loss is None else round(loss, LOSS_DECIMALS)
