"""The stages of a job: which one it is at, and how many workers that one has.

Below: `types`, `workers`. Above: `plan_job`.

A stage is done when its worker 0 has succeeded: worker 0 commits what the stage is for (the
data's manifest, the export, the report) as its last act, so its success is the proof.
"""

from __future__ import annotations

from llmtrain_api import JobStatus, LLMTrainingJob
from llmtrain_api.records import Stage, StageResult
from llmtrain_api.status import ConditionType, Phase
from llmtrain_operator.plan.types import Observed, ObservedProcess, ProcessState

STAGES = tuple(Stage)
PHASE_OF_STAGE = {
    Stage.PREPARE: Phase.PREPARING,
    Stage.TRAIN: Phase.TRAINING,
    Stage.EVALUATE: Phase.EVALUATING,
}


def count_workers(job: LLMTrainingJob, stage: Stage) -> int:
    """Return how many workers of a stage work together, as it was decided last."""
    if stage is Stage.PREPARE:
        return job.spec.data.tasks
    if stage is Stage.EVALUATE:
        return job.spec.evaluation.workers
    size = job.status.size
    return job.spec.workers.replicas if size is None else size.workers


def count_extra_workers(job: LLMTrainingJob, stage: Stage) -> int:
    """Return how many more are asked for, and may wait beside them."""
    if stage is not Stage.TRAIN:
        return 0
    return max(0, job.spec.workers.replicas - count_workers(job, stage))


def find_stage(status: JobStatus, observed: Observed) -> Stage | None:
    """Return the first stage that is not done; None where all are.

    The status never goes back: what it has passed is done, even if its processes are gone.
    """
    first = STAGES.index(status.stage) if status.stage is not None else 0
    for stage in STAGES[first:]:
        if find_success(stage, observed) is None:
            return stage
    return None


def list_passed(stage: Stage | None) -> tuple[Stage, ...]:
    """Return the stages before one; None: all are done."""
    return STAGES if stage is None else STAGES[: STAGES.index(stage)]


def find_success(stage: Stage, observed: Observed) -> ObservedProcess | None:
    """Return the process of worker 0 that completed the stage, if one did."""
    for candidate in observed.processes:
        of_leader = candidate.process.stage is stage and candidate.process.index == 0
        if of_leader and candidate.state is ProcessState.SUCCEEDED:
            return candidate
    return None


def merge_results(status: JobStatus, observed: Observed) -> StageResult | None:
    """Return what came of all stages so far: each one fills its own fields."""
    merged = status.results.model_dump(exclude_none=True) if status.results else {}
    for stage in STAGES:
        success = find_success(stage, observed)
        if success and success.exit_record and success.exit_record.result:
            merged |= success.exit_record.result.model_dump(exclude_none=True)
    return StageResult(**merged) if merged else None


def were_all_there(status: JobStatus, stage: Stage) -> bool:
    """Tell whether the last status had seen every worker of the stage."""
    reconciling = status.find_condition(ConditionType.RECONCILING)
    return (
        status.stage is stage
        and status.phase is PHASE_OF_STAGE[stage]
        and reconciling is not None
        and reconciling.status == "False"
    )
