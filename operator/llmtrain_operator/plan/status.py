"""The status that a decision leads to: phase, message, conditions, progress, workers.

Below: `conditions`, `progress`, `stages`, `waiting`, `workers`. Above: `at_work`, `suspension` and
`endings`, which decide first and then ask this module to say so. Nothing here decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from llmtrain_api import JobStatus, LLMTrainingJob, ProgressRecord
from llmtrain_api.naming import locate_run
from llmtrain_api.records import Stage
from llmtrain_api.status import (
    CheckpointStatus,
    ConditionType,
    Provenance,
    WorkersStatus,
)
from llmtrain_operator.plan.attempts import Toll
from llmtrain_operator.plan.conditions import ConditionSet, format_time
from llmtrain_operator.plan.expectation import expect_job
from llmtrain_operator.plan.progress import (
    complete_progress,
    describe_progress,
    find_record,
    has_rolled_back,
)
from llmtrain_operator.plan.stages import PHASE_OF_STAGE, merge_results
from llmtrain_operator.plan.types import Observed, ProcessState
from llmtrain_operator.plan.waiting import Waiting
from llmtrain_operator.plan.workers import Worker


def describe_common(
    job: LLMTrainingJob, observed: Observed, toll: Toll, now: datetime
) -> JobStatus:
    """Return the status with everything that is said alike in every phase."""
    before, spec = job.status, job.spec
    run_uri = locate_run(
        spec.storage.uri, job.metadata.namespace, job.metadata.name, job.metadata.uid
    )
    results = merge_results(before, observed)
    progress = describe_progress(
        spec,
        before.progress,
        find_record(observed, Stage.TRAIN),
        now,
        committed_step=find_checkpoint_step(before, observed),
    )
    if results is not None and results.export_uri is not None:
        progress = complete_progress(spec, progress, results, now)
    update: dict[str, object] = {
        "observed_generation": job.metadata.generation,
        "progress": progress,
        "checkpoint": describe_checkpoint(job, run_uri, observed),
        "results": results,
        "plan": expect_job(spec, before.plan, results),
        "provenance": describe_provenance(
            job, run_uri, results.dataset if results else None, spec.workers.image
        ),
        "started_at": before.started_at or format_time(_find_start(observed, now)),
        "attempts": list(toll.attempts),
        "incarnations": toll.incarnations,
        "restarts": toll.restarts,
        "failures": toll.failures,
        "failures_by_class": toll.failures_by_class,
        "avoided_nodes": list(toll.avoided),
    }
    return before.model_copy(update=update)


def _find_start(observed: Observed, now: datetime) -> datetime:
    """Return when the first process was made, which may be a while before anything is said."""
    return min([now, *(o.created_at for o in observed.processes if o.created_at is not None)])


def begin_conditions(job: LLMTrainingJob, now: datetime) -> ConditionSet:
    """Return the conditions of the last status, to be stated anew."""
    return ConditionSet(job.status.conditions, now, job.metadata.generation)


def describe_checkpoint(
    job: LLMTrainingJob, run_uri: str, observed: Observed
) -> CheckpointStatus | None:
    """Return the newest checkpoint that is known to be committed, and what is said of saves."""
    before = job.status.checkpoint
    status = before or CheckpointStatus()
    step = find_checkpoint_step(job.status, observed)
    if step is not None:
        status = status.model_copy(
            update={"step": step, "uri": f"{run_uri}/checkpoints/step-{step:08d}"}
        )
    record = find_record(observed, Stage.TRAIN)
    if record is not None:
        interval, save = record.checkpoint_interval_seconds, record.checkpoint_save_seconds
        said = {
            "interval_seconds": None if interval is None else round(interval),
            "save_seconds": status.save_seconds if save is None else round(save, 1),
            "skipped": record.checkpoint_skips,
            "refused": record.checkpoint_refused or status.refused,
        }
        status = status.model_copy(update=said)
    return status if before is not None or status != CheckpointStatus() else None


def find_checkpoint_step(status: JobStatus, observed: Observed) -> int | None:
    """Return the step of the newest checkpoint that any process has told of.

    A process that was told to leave saves first, and says so only in its exit record. A run that
    has rolled back has refused its newest ones, and says which one it went on from.
    """
    record = find_record(observed, Stage.TRAIN)
    if record is not None and has_rolled_back(status.progress, record):
        return record.checkpoint_step
    told = [status.checkpoint.step if status.checkpoint is not None else None]
    told += [record.checkpoint_step if record is not None else None]
    told += [o.exit_record.checkpoint_step for o in observed.processes if o.exit_record is not None]
    return max((step for step in told if step is not None), default=None)


def describe_workers(workers: Sequence[Worker], desired: int) -> WorkersStatus:
    """Count the processes of a stage that work together, beside how many are asked for."""
    running = sum(
        worker.newest is not None and worker.newest.state is ProcessState.RUNNING
        for worker in workers
    )
    return WorkersStatus(desired=desired, running=running, summary=f"{running}/{desired}")


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


def state_active(
    conditions: ConditionSet,
    stage: Stage,
    workers: Sequence[Worker],
    waiting: Waiting,
    *,
    fewer: str = "",
) -> None:
    """State the conditions of a job whose stage is under way, and what that waits for.

    `fewer` says why not so many workers as were asked for train; empty: they do.
    """
    reason, message = waiting.reason, waiting.message
    conditions.set(ConditionType.SUCCEEDED, "Unknown", PHASE_OF_STAGE[stage].value)
    if any(worker.newest is None for worker in workers):
        conditions.set(ConditionType.RECONCILING, "True", "StartingWorkers", message)
    else:
        conditions.set(ConditionType.RECONCILING, "False", "WorkersExist")
    if waiting.is_stalled:
        conditions.set(ConditionType.STALLED, "True", reason, message)
    else:
        conditions.set(ConditionType.STALLED, "False", "Progressing")
    if reason:
        conditions.set(ConditionType.WORKERS_READY, "False", reason, message)
    elif fewer:
        conditions.set(ConditionType.WORKERS_READY, "True", "FewerThanAsked", fewer)
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
