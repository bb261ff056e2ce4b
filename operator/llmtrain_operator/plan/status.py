"""The status that a decision leads to: phase, message, conditions, progress, workers.

Below: `conditions`, `stages`, `workers`. Above: `plan_job`, which decides first and then asks
this module to say so. Nothing here decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from llmtrain_api import JobSpec, JobStatus, LLMTrainingJob, ProgressRecord
from llmtrain_api.records import Stage, StageResult
from llmtrain_api.status import (
    CheckpointStatus,
    ConditionType,
    Phase,
    Progress,
    Provenance,
    WorkersStatus,
)
from llmtrain_operator.plan.conditions import ConditionSet, format_time, parse_time
from llmtrain_operator.plan.types import Observed, ObservedProcess, ProcessState
from llmtrain_operator.plan.workers import Worker

PHASE_OF_STAGE = {
    Stage.PREPARE: Phase.PREPARING,
    Stage.TRAIN: Phase.TRAINING,
    Stage.EVALUATE: Phase.EVALUATING,
}
PROGRESS_WRITE_SECONDS = 10.0
"""A status in which nothing but the progress changed is written no oftener than this."""

PERCENT = 100

LOSS_DECIMALS = 4
"""What `kubectl get` shows of a loss; `results` has every digit."""


def find_record(observed: Observed, stage: Stage | None) -> ProgressRecord | None:
    """Return what worker 0 last said, if it spoke of the stage."""
    record = observed.progress
    return record if record is not None and record.stage is stage else None


def describe_progress(
    spec: JobSpec, before: Progress | None, record: ProgressRecord | None, now: datetime
) -> Progress | None:
    """Return the progress that worker 0 of the training stage reports, or the last known."""
    if record is None or record.stage is not Stage.TRAIN or record.round == 0:
        return before
    total = spec.training.steps
    tokens_left = (total - record.step) * spec.training.batch_size * spec.training.sequence_length
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
        remaining_seconds=round(tokens_left / speed) if speed else None,
        incarnation=record.incarnation,
        round=record.round,
        updated_at=format_time(now),
    )


def _round_loss(loss: float | None) -> float | None:
    return None if loss is None else round(loss, LOSS_DECIMALS)


def count_process_restarts(before: Progress | None, record: ProgressRecord | None) -> int:
    """Return how many times ranks were started anew within worker 0 since the stored progress.

    Both are written together, so that a restart counts once, whoever is killed in between.
    """
    if record is None or record.stage is not Stage.TRAIN or record.round == 0:
        return 0
    known = 1  # the first start of an incarnation is no restart
    if before is not None and before.incarnation == record.incarnation:
        known = max(known, before.round)
    elif before is not None and before.incarnation > record.incarnation:
        return 0
    return max(0, record.round - known)


def complete_progress(
    spec: JobSpec, before: Progress | None, results: StageResult, now: datetime
) -> Progress:
    """Return the progress of a training stage that is done; its last step may never be polled."""
    total = spec.training.steps
    values = before.model_dump() if before else {}
    values |= {"step": total, "total_steps": total, "percent": PERCENT, "remaining_seconds": None}
    if results.train_loss is not None:
        values["loss"] = _round_loss(results.train_loss)
    if before is None or before.step != total:
        values["updated_at"] = format_time(now)
    return Progress(**values)


def describe_checkpoint(
    job: LLMTrainingJob, run_uri: str, observed: Observed
) -> CheckpointStatus | None:
    """Return the newest checkpoint that is known to be committed.

    A process that was told to leave saves first, and says so only in its exit record.
    """
    before = job.status.checkpoint
    record = find_record(observed, Stage.TRAIN)
    told = [record.checkpoint_step if record is not None else None]
    told += [o.exit_record.checkpoint_step for o in observed.processes if o.exit_record is not None]
    step = max((step for step in told if step is not None), default=None)
    if step is None or (before is not None and before.step >= step):
        return before
    return CheckpointStatus(step=step, uri=f"{run_uri}/checkpoints/step-{step:08d}")


def describe_workers(workers: Sequence[Worker]) -> WorkersStatus:
    """Count the processes of a stage."""
    running = sum(
        worker.newest is not None and worker.newest.state is ProcessState.RUNNING
        for worker in workers
    )
    return WorkersStatus(desired=len(workers), running=running, summary=f"{running}/{len(workers)}")


def describe_provenance(
    job: LLMTrainingJob, run_uri: str, dataset: str | None, image: str | None
) -> Provenance:
    """Return what the run is made of, as far as it is known."""
    before = job.status.provenance or Provenance()
    return Provenance(
        run_uri=run_uri,
        dataset=dataset or before.dataset,
        image=image or before.image,
    )


def explain_waiting(workers: Sequence[Worker]) -> tuple[str, str]:
    """Return (reason, message) for the workers that do not run yet; empty where all run."""
    waiting = [
        worker.newest
        for worker in workers
        if worker.newest is not None and worker.newest.state is ProcessState.WAITING
    ]
    absent = [worker for worker in workers if worker.newest is None]
    blocked = [process for process in waiting if process.waiting_reason]
    if blocked:
        return _explain_blocked(blocked, len(workers))
    if waiting or absent:
        return "Starting", _count(len(waiting) + len(absent), len(workers), "start")
    return "", ""


def _explain_blocked(blocked: Sequence[ObservedProcess], total: int) -> tuple[str, str]:
    first = blocked[0]
    advice = _ADVICE.get(first.waiting_reason, "")
    said = first.waiting_message.strip() or first.waiting_reason
    message = f"{_count(len(blocked), total, 'wait')} ({first.waiting_reason}): {said}"
    return first.waiting_reason, f"{message} {advice}".strip()


def _count(number: int, total: int, verb: str) -> str:
    """Say how many workers do something, as a person would."""
    if total == 1:
        return f"the worker {verb}s"
    return f"{number} of {total} workers {verb}{'s' if number == 1 else ''}"


_ADVICE = {
    "Unschedulable": "Lower workers.resources, or add nodes that fit.",
    "ImagePullBackOff": "Check workers.image and the registry's credentials.",
    "ErrImagePull": "Check workers.image and the registry's credentials.",
    "ErrImageNeverPull": "The image is not on the node, and may not be pulled.",
    "InvalidImageName": "Check workers.image.",
    "CreateContainerConfigError": "Create what is missing; the pod then starts by itself.",
    "ContainerCreating": "Create what is missing; the pod then starts by itself.",
}


def state_active(conditions: ConditionSet, stage: Stage, workers: Sequence[Worker]) -> None:
    """State the conditions of a job whose stage is under way."""
    reason, message = explain_waiting(workers)
    conditions.set(ConditionType.SUCCEEDED, "Unknown", PHASE_OF_STAGE[stage].value)
    if any(worker.newest is None for worker in workers):
        conditions.set(ConditionType.RECONCILING, "True", "StartingWorkers", message)
    else:
        conditions.set(ConditionType.RECONCILING, "False", "WorkersExist")
    conditions.set(ConditionType.STALLED, "False", "Progressing")
    if reason:
        conditions.set(ConditionType.WORKERS_READY, "False", reason, message)
    else:
        conditions.set(ConditionType.WORKERS_READY, "True", "AllRunning")


def state_knowledge(
    conditions: ConditionSet, stage: Stage | None, record: ProgressRecord | None
) -> None:
    """State what is known of the data, the checkpoints and the store."""
    if stage is Stage.PREPARE:
        conditions.set(ConditionType.DATA_READY, "Unknown", "Preparing")
    else:
        conditions.set(ConditionType.DATA_READY, "True", "Prepared")
    conditions.set_default(ConditionType.CHECKPOINT_HEALTHY, "NoneYet")
    conditions.set_default(ConditionType.STORAGE_SAFE, "NotProbed")
    if record is not None and record.checkpoint_failure:
        message = (
            f"the newest save failed: {record.checkpoint_failure}; training goes on, and every "
            "save that falls due tries again"
        )
        conditions.set(ConditionType.CHECKPOINT_HEALTHY, "False", "SaveFailed", message)
    elif record is not None and record.checkpoint_step is not None:
        conditions.set(ConditionType.CHECKPOINT_HEALTHY, "True", "Committed")
    if record is not None and record.storage_safe is not None:
        if record.storage_safe:
            conditions.set(ConditionType.STORAGE_SAFE, "True", "RefusesOverwrites")
        else:
            conditions.set(
                ConditionType.STORAGE_SAFE,
                "False",
                "AllowsOverwrites",
                "the store ignores If-None-Match: two writers of one checkpoint would not be "
                "told apart; use a store with conditional writes",
            )


def is_worth_writing(before: JobStatus, after: JobStatus, now: datetime) -> bool:
    """Tell whether a status differs enough from the one that is stored to be written now.

    The ledger alone is not worth it: the next write charges the time all the same.
    """
    if _without(before, "usage") == _without(after, "usage"):
        return False
    if _without(before, "usage", "progress", "checkpoint") != _without(
        after, "usage", "progress", "checkpoint"
    ):
        return True
    last = before.progress.updated_at if before.progress else None
    return last is None or (now - parse_time(last)).total_seconds() >= PROGRESS_WRITE_SECONDS


def _without(status: JobStatus, *fields: str) -> JobStatus:
    return status.model_copy(update=dict.fromkeys(fields))
