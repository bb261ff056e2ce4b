"""The ledger: every second between two written statuses goes to what the run was at.

Below: the contract's `Usage`. Above: `plan_job` has it charged with each plan.

The status says what the run is at and since when that is charged, so the next status charges the
time in between, whoever writes it: an operator that was down for an hour charges that hour to what
the run was at. The sum is the age of the run by construction; what a second goes to is as exact as
the statuses are frequent (10 s while training, at once where a stage or a worker changes).
"""

from __future__ import annotations

from datetime import datetime

from llmtrain_api import JobSpec, JobStatus, ProgressRecord
from llmtrain_api.records import RankPhase, Stage
from llmtrain_api.status import ConditionType, Phase, Progress
from llmtrain_api.usage import Activity, Usage
from llmtrain_operator.plan.conditions import format_time, parse_time
from llmtrain_operator.plan.progress import count_lost_steps, count_step_tokens

PERCENT = 100

ACTIVITY_OF_PHASE = {
    RankPhase.TRAINING: Activity.TRAINING,
    RankPhase.CHECKPOINTING: Activity.CHECKPOINTING,
    RankPhase.EXPORTING: Activity.CHECKPOINTING,
    RankPhase.FINISHED: Activity.CHECKPOINTING,
    RankPhase.EVALUATING: Activity.EVALUATING,
}
"""What rank 0 says that it does, while all workers of the training stage run."""

STARTING_REASONS = frozenset({"Starting", "StartingWorkers"})
"""Reasons for workers not to be ready that are no waiting for anybody."""


def charge_usage(
    spec: JobSpec,
    before: JobStatus,
    after: JobStatus,
    record: ProgressRecord | None,
    now: datetime,
) -> Usage:
    """Return the ledger as of now: the time since `before` charged, and what is lost moved."""
    # A first status may come later than the processes (`writes.can_wait`): until then they start.
    usage = before.usage or Usage(activity=Activity.STARTING, updated_at=after.started_at)
    update: dict[str, object] = {
        "activity": find_activity(after, record),
        "updated_at": format_time(now),
    }
    if usage.updated_at is not None and usage.activity is not None:
        elapsed = (parse_time(format_time(now)) - parse_time(usage.updated_at)).total_seconds()
        field = f"{usage.activity}_seconds"
        update[field] = getattr(usage, field) + max(0.0, elapsed)
    charged = usage.model_copy(update=update)
    charged = _move_lost(charged, spec, before.progress, record)
    return charged.model_copy(update={"goodput_percent": compute_goodput(charged)})


def find_activity(status: JobStatus, record: ProgressRecord | None) -> Activity | None:
    """Return what a run with that status is at; None once it has ended."""
    if status.phase is Phase.SUSPENDED:
        return Activity.SUSPENDED
    if status.phase in (Phase.SUCCEEDED, Phase.FAILED):
        return None
    ready = status.find_condition(ConditionType.WORKERS_READY)
    if ready is not None and ready.status == "False":
        if ready.reason not in STARTING_REASONS:
            return Activity.QUEUED
        return Activity.DOWN if _was_at_work(status) else Activity.STARTING
    if status.stage is Stage.PREPARE:
        return Activity.PREPARING
    if status.stage is Stage.EVALUATE:
        return Activity.EVALUATING
    phase = None
    if record is not None and record.stage is Stage.TRAIN:
        phase = next((rank.phase for rank in record.ranks if rank.rank == 0), None)
    return ACTIVITY_OF_PHASE.get(phase, Activity.STARTING) if phase else Activity.STARTING


def compute_goodput(usage: Usage) -> int | None:
    """Return the share of time that went into steps that count, in percent."""
    total = sum_seconds(usage) - usage.suspended_seconds
    return round(PERCENT * usage.training_seconds / total) if total > 0 else None


def sum_seconds(usage: Usage) -> float:
    """Return all the time that was charged."""
    values = usage.model_dump()
    return float(sum(values[f"{activity}_seconds"] for activity in Activity) + usage.lost_seconds)


def _was_at_work(status: JobStatus) -> bool:
    """Tell whether a worker of the present stage has been lost before."""
    return any(attempt.stage is status.stage for attempt in status.attempts)


def _move_lost(
    usage: Usage, spec: JobSpec, before: Progress | None, record: ProgressRecord | None
) -> Usage:
    """Move the time of steps that are repeated from `training` to `lost`."""
    steps = count_lost_steps(before, record)
    if not steps or before is None or record is None:
        return usage
    tokens = steps * count_step_tokens(spec, record)
    speed = before.tokens_per_second or record.tokens_per_second
    seconds = min(usage.training_seconds, tokens / speed) if speed else 0.0
    return usage.model_copy(
        update={
            "training_seconds": usage.training_seconds - seconds,
            "lost_seconds": usage.lost_seconds + seconds,
            "lost_steps": usage.lost_steps + steps,
        }
    )
