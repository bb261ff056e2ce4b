"""The job's status: what the operator says of a run. Written by the operator alone.

Below: `base`. Above: `job` embeds it, the operator's `plan` computes it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from llmtrain_api.base import Model
from llmtrain_api.failures import FailureClass
from llmtrain_api.planned import PlanStatus
from llmtrain_api.records import Stage, StageResult
from llmtrain_api.size import SizeStatus
from llmtrain_api.usage import Usage

MAX_ATTEMPTS_KEPT = 20
"""Ended attempts that the status lists, newest last; the count is in `restarts`."""

MAX_AVOIDED_NODES = 50
"""Nodes that a run avoids at once; the oldest are allowed again first."""


class Phase(StrEnum):
    """One word for people. Programs read the conditions."""

    PENDING = "Pending"
    PREPARING = "Preparing"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class ConditionType(StrEnum):
    """Conditions that are always present once the operator has seen the job."""

    SUCCEEDED = "Succeeded"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    DATA_READY = "DataReady"
    WORKERS_READY = "WorkersReady"
    CHECKPOINT_HEALTHY = "CheckpointHealthy"
    STORAGE_SAFE = "StorageSafe"


class Condition(Model):
    """A metav1.Condition."""

    type: ConditionType
    """What the condition speaks of."""

    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""

    reason: str = Field(pattern=r"^[A-Za-z]([A-Za-z0-9]*)$", max_length=128)
    """Why, as one CamelCase word for programs."""

    message: str = Field(default="", max_length=2048)
    """Why, for people, and what to do next."""

    last_transition_time: str
    """When status last changed (RFC 3339, UTC)."""

    observed_generation: int = Field(default=0, ge=0)
    """Generation of the spec that this speaks of."""


class Progress(Model):
    """How far the current stage is."""

    step: int = Field(default=0, ge=0)
    """Optimizer steps done."""

    total_steps: int = Field(default=0, ge=0)
    """Optimizer steps of the run."""

    percent: int = Field(default=0, ge=0, le=100)
    """Share of the steps that is done."""

    loss: float | None = None
    """Training loss of the newest step, nats per token."""

    validation_loss: float | None = None
    """Newest loss on held-out text, nats per token."""

    tokens_per_second: float | None = None
    """Training tokens of all ranks in a second."""

    utilization_percent: int | None = None
    """Model FLOPs utilization: that speed in percent of what the GPUs' data sheet allows in
    bfloat16; absent on CPUs and on GPUs that are not known."""

    remaining_seconds: int | None = None
    """Estimate until the last step, at the present speed."""

    loss_spikes: int | None = None
    """Times that the loss rose far above its median, over this start of the ranks."""

    rollbacks: int | None = None
    """Times that the run went back to a checkpoint, since the loss ran away."""

    skipped_batches: int | None = None
    """Batches that it leaves out since; which ones is in divergence.json of the run."""

    steps_at_risk: int | None = Field(default=None, ge=0)
    """Steps since the newest committed checkpoint: what a sudden end would cost now."""

    straggler: str = Field(default="", max_length=1024)
    """Which rank the others have been waiting for, for long, and where it is; empty: none."""

    incarnation: int = Field(default=0, ge=0)
    """Incarnation of worker 0 that told this."""

    round: int = Field(default=0, ge=0)
    """How many times that worker had started its ranks."""

    updated_at: str | None = None
    """When this was read from the workers (RFC 3339, UTC)."""


class WorkersStatus(Model):
    """The pods of the current stage."""

    desired: int = Field(default=0, ge=0)
    """Pods that should run."""

    running: int = Field(default=0, ge=0)
    """Pods that run."""

    summary: str = Field(default="", max_length=32)
    """running/desired, for the printed column."""


class CheckpointStatus(Model):
    """What would survive if everything stopped now."""

    step: int = Field(default=0, ge=0)
    """Step of the newest committed checkpoint."""

    uri: str | None = None
    """Where it is."""

    interval_seconds: int | None = None
    """Seconds between saves, where the clock decides; checkpoint.auto chose it."""

    save_seconds: float | None = Field(default=None, ge=0)
    """How long the newest save took, from its beginning until it was committed. New pods get
    several times that to save and leave in."""

    skipped: int = Field(default=0, ge=0)
    """Saves that fell due while one was still on its way, since worker 0's pod started."""

    refused: str = Field(default="", max_length=1024)
    """Which checkpoint was refused last on resuming, why, and which one was taken instead."""


class Attempt(Model):
    """One process of a stage that ended without success."""

    stage: Stage
    """Stage it belonged to."""

    index: int = Field(ge=0)
    """Index of the worker."""

    incarnation: int = Field(ge=0)
    """Which attempt of that worker it was, from 0."""

    failure_class: FailureClass | None = None
    """What kind of failure it was; absent: written by an older version."""

    reason: str = Field(max_length=128)
    """Why it ended, as one CamelCase word."""

    message: str = Field(default="", max_length=1024)
    """Why it ended, for people."""

    step: int | None = None
    """Optimizer step that it was at, where it says."""

    checkpoint_step: int | None = None
    """Newest committed checkpoint when it ended; absent: there was none."""

    lost_steps: int | None = Field(default=None, ge=0)
    """Steps that had to be repeated because of it (train); absent until training goes on."""

    exit_code: int | None = None
    """Exit code of its container, where it had one."""

    node: str | None = None
    """Node it ran on."""

    finished_at: str | None = None
    """When it ended, or was seen to have ended (RFC 3339, UTC)."""


class AvoidedNode(Model):
    """A node that new pods of this run keep away from for a while."""

    node: str = Field(max_length=253)
    """Its name."""

    reason: str = Field(max_length=128)
    """What happened there last, as one CamelCase word."""

    message: str = Field(default="", max_length=1024)
    """What happened there, for people."""

    until: str
    """When it is used again (RFC 3339, UTC)."""


class Provenance(Model):
    """What the run was made of, so that it can be made again."""

    run_uri: str | None = None
    """Where checkpoints, export and evaluation of this run lie."""

    dataset: str | None = None
    """Fingerprint of the prepared data."""

    image: str | None = None
    """Trainer image."""


class JobStatus(Model):
    """What the operator says of the run."""

    observed_generation: int = -1
    """Generation of the spec that this status speaks of; -1 until the operator has seen it."""

    phase: Phase | None = None
    """One word for people."""

    stage: Stage | None = None
    """Stage that runs, or ran last."""

    message: str = Field(default="", max_length=2048)
    """What the run waits for, or why it failed and what to do next."""

    conditions: list[Condition] = Field(default=[], max_length=16)
    """Machine-readable state."""

    plan: PlanStatus | None = None
    """What it is expected to take."""

    progress: Progress | None = None
    """How far it is."""

    workers: WorkersStatus | None = None
    """Pods of the current stage."""

    size: SizeStatus | None = None
    """How many workers train together, where that may change."""

    checkpoint: CheckpointStatus | None = None
    """Newest committed checkpoint."""

    restarts: int = Field(default=0, ge=0)
    """Processes that ended without success and were replaced, over all stages."""

    failures: int = Field(default=0, ge=0)
    """Those of them that count against runPolicy.restartLimit."""

    failures_by_class: dict[str, int] = Field(default={}, max_length=32)
    """All of them by class of failure."""

    group_restarts: int = Field(default=0, ge=0)
    """Times that all workers were started anew, since replacing one had not helped."""

    process_restarts: int = Field(default=0, ge=0)
    """Times that ranks were started anew within their pods."""

    incarnations: dict[str, int] = Field(default={}, max_length=20_000)
    """Incarnation that each `<stage>-<index>` is at; absent: the first, 0."""

    attempts: list[Attempt] = Field(default=[], max_length=MAX_ATTEMPTS_KEPT)
    """Newest attempts that ended without success."""

    avoided_nodes: list[AvoidedNode] = Field(default=[], max_length=MAX_AVOIDED_NODES)
    """Nodes that hurt the run twice, oldest first."""

    held_until: str | None = None
    """Workers that did not all find a place are released, and tried again then (RFC 3339, UTC)."""

    usage: Usage | None = None
    """Where the time of the run went."""

    results: StageResult | None = None
    """What came of the finished stages."""

    provenance: Provenance | None = None
    """What the run was made of."""

    started_at: str | None = None
    """When the operator first acted on the job (RFC 3339, UTC)."""

    finished_at: str | None = None
    """When it succeeded or failed (RFC 3339, UTC)."""

    def find_condition(self, kind: ConditionType) -> Condition | None:
        """Return the condition of that type, if present."""
        return next((c for c in self.conditions if c.type is kind), None)
