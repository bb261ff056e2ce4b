"""What a pod tells the operator: its progress while it lives, its exit record when it ends.

Below: `base`. Above: the trainer's agent writes these, the operator's `plan` reads them.

An exit record travels as the container's termination message, so it reaches the operator
through the Kubernetes API alone and must stay within 4,096 bytes.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

from pydantic import Field

from llmtrain_api.base import Model

MAX_EXIT_RECORD_BYTES = 4096
"""The kubelet cuts a termination message here."""

MAX_MESSAGE_CHARACTERS = 900
"""Keeps the record within its bytes, even where every character takes three."""

MAX_SUITE_METRICS = 24
"""Three of each of eight suites."""


MAX_CHECKPOINT_METRICS = MAX_SUITE_METRICS + 3
"""Those, and what is measured on held-out text."""


class Stage(StrEnum):
    """The stages of a job, in order."""

    PREPARE = "prepare"
    TRAIN = "train"
    EVALUATE = "evaluate"


class ExitCode(IntEnum):
    """Why a stage process or an agent ended. A closed set: both sides know every code."""

    SUCCEEDED = 0
    BUG = 1
    """An exception that nobody foresaw; Python's own exit code for one."""
    CONFIGURATION = 20
    """The manifest asks for what cannot be; a retry would fail alike."""
    DATA = 21
    """The data cannot be used as it is; a retry would fail alike."""
    STORAGE = 22
    """The store did not answer or refused."""
    OUT_OF_MEMORY = 23
    """The worker's memory ran out."""
    DIVERGED = 24
    """The loss became infinite or not a number."""
    PEER_LOST = 25
    """Another worker went away and did not come back in time."""
    PREEMPTED = 26
    """Asked to leave: the state was saved first."""
    RANK_LOST = 27
    """Ranks of this pod kept dying by signals; the pod gives up so that another node may try."""
    HUNG = 28
    """Ranks of this pod stood still, again and again; another node may do better."""
    DEVICE_OUT_OF_MEMORY = 29
    """A GPU's memory ran out."""
    DEVICE_FAULT = 30
    """A GPU is broken; another node may do better."""
    NO_SPACE = 31
    """A disk or /dev/shm is full."""


class GateResult(Model):
    """What came of one of spec.evaluation.gates: the comparison that decided, and its two sides."""

    passed: bool
    """Whether the model satisfies it."""

    comparison: int = Field(default=0, ge=0)
    """Which comparison of the expression decided, from 0."""

    value: float | None = None
    """Its left side; absent: it is no number."""

    limit: float | None = None
    """Its right side; absent: it is no number."""

    missing: str | None = Field(default=None, max_length=128)
    """A metric of the gate that was not measured or is no number, which fails the gate."""


class CheckpointResult(Model):
    """What one of spec.evaluation.checkpoints came to."""

    name: str = Field(max_length=14)
    """As the spec names it."""

    step: int | None = None
    """Its step; absent: there is no such checkpoint, for which the report has the reason."""

    metrics: dict[str, float] = Field(default={}, max_length=MAX_CHECKPOINT_METRICS)
    """loss, accuracy, f1_macro and the most telling metrics of each suite, as far as they were
    measured."""


class StageResult(Model):
    """What came of a stage. Each stage fills its own fields."""

    dataset: str | None = None
    """Fingerprint of the prepared data (prepare)."""

    documents: int | None = None
    """Documents read, both splits (prepare)."""

    train_tokens: int | None = None
    """Tokens of the training split (prepare)."""

    validation_tokens: int | None = None
    """Tokens of the held-out split (prepare)."""

    vocabulary_size: int | None = None
    """Tokens that the tokenizer knows (prepare)."""

    dataset_reused: bool | None = None
    """Whether an earlier job had prepared the same data (prepare)."""

    parameters: int | None = None
    """Trainable parameters, tied ones once (train)."""

    step: int | None = None
    """Last step (train)."""

    train_loss: float | None = None
    """Training loss of the last step, nats per token (train)."""

    validation_loss: float | None = None
    """Loss on all held-out text, nats per target (evaluate)."""

    unigram_loss: float | None = None
    """The same for a model that knows token frequencies only: the floor to beat (evaluate)."""

    perplexity: float | None = None
    """exp(validation_loss) (evaluate)."""

    accuracy: float | None = None
    """Share of the targets that the model holds for the most probable (evaluate)."""

    f1_macro: float | None = None
    """Mean of the F1 scores of all labels, each counting alike (evaluate, classification)."""

    ece: float | None = None
    """Expected calibration error: how far probabilities are from the share that is right, 0 to 1
    (evaluate, classification)."""

    bits_per_byte: float | None = None
    """Held-out loss in bits for each byte of UTF-8: comparable over tokenizers (evaluate)."""

    suites: dict[str, float] | None = Field(default=None, max_length=MAX_SUITE_METRICS)
    """The most telling metrics of each suite, by their names in gates; the report has all of them
    (evaluate)."""

    checkpoints: list[CheckpointResult] | None = Field(default=None, max_length=4)
    """What spec.evaluation.checkpoints came to, in their order; the report has all of it
    (evaluate)."""

    gates: list[GateResult] | None = Field(default=None, max_length=16)
    """What came of spec.evaluation.gates, in their order (evaluate)."""

    export_uri: str | None = None
    """The model as a Hugging Face directory (train)."""

    report_uri: str | None = None
    """The report as one HTML page (evaluate)."""


class ExitRecord(Model):
    """Why a pod ended."""

    code: ExitCode
    """The exit code, by name in Python and by number in JSON."""

    reason: str = Field(max_length=64)
    """One CamelCase word for programs, as DatasetInvalid."""

    message: str = Field(max_length=MAX_MESSAGE_CHARACTERS)
    """What happened, naming the field, file and line where there is one."""

    next_step: str = Field(default="", max_length=300)
    """What the user can do about it."""

    rank: int | None = None
    """The rank that failed first, where one did."""

    step: int | None = None
    """The step it was at."""

    checkpoint_step: int | None = None
    """Step of the newest committed checkpoint that this pod knows of."""

    result: StageResult | None = None
    """On success: what came of the stage."""


class RankPhase(StrEnum):
    """What a rank is doing."""

    STARTING = "starting"
    RENDEZVOUS = "rendezvous"
    RESTORING = "restoring"
    TRAINING = "training"
    CHECKPOINTING = "checkpointing"
    EVALUATING = "evaluating"
    EXPORTING = "exporting"
    FINISHED = "finished"


class RankProgress(Model):
    """What one rank last said of itself."""

    rank: int = Field(ge=0)
    """Global rank."""

    phase: RankPhase
    """What it was doing."""

    step: int = Field(default=0, ge=0)
    """Steps it had done."""

    heartbeat: float
    """When it said so (Unix seconds on the pod's clock)."""

    straggler_ratio: float | None = None
    """Its own time of a step as a multiple of the median rank's; absent: not measured yet."""


class ProgressRecord(Model):
    """`GET /progress` of an agent."""

    stage: Stage
    """Stage it runs."""

    index: int = Field(ge=0)
    """Index of the worker."""

    incarnation: int = Field(ge=0)
    """Which attempt of that worker it is."""

    round: int = Field(default=0, ge=0)
    """How many times its ranks were started; the first is 1."""

    step: int = Field(default=0, ge=0)
    """Optimizer steps done."""

    total_steps: int = Field(default=0, ge=0)
    """Optimizer steps of the run."""

    resumed_step: int | None = None
    """Step of the checkpoint that this round started from; absent: from scratch."""

    lost_step: int | None = None
    """Step that this worker's ranks were at when their newest round was lost."""

    loss: float | None = None
    """Training loss of the newest step, nats per token."""

    validation_loss: float | None = None
    """Newest loss on held-out text, nats per token."""

    learning_rate: float | None = None
    """Learning rate of the newest step."""

    gradient_norm: float | None = None
    """L2 norm of the newest gradient, before clipping."""

    tokens_per_second: float | None = None
    """Training tokens of all ranks in a second, over the last steps."""

    step_tokens: float | None = None
    """Tokens that all ranks read in the newest step: fewer than the batch has room for where
    documents are shorter than sequences."""

    utilization: float | None = None
    """Model FLOPs utilization: tokensPerSecond as a share of those at which the GPUs would do all
    the bfloat16 products of their data sheet; absent on CPUs, and on GPUs that are not known."""

    data_share: float | None = None
    """Share of a step's time in which rank 0 makes its batches."""

    device_memory_bytes: int | None = None
    """The most memory of its GPU that rank 0 has held at once."""

    checkpoint_step: int | None = None
    """Newest committed checkpoint."""

    checkpoint_failure: str = Field(default="", max_length=MAX_MESSAGE_CHARACTERS)
    """Why the newest save failed; empty: none has, or one has succeeded since."""

    checkpoint_skips: int = Field(default=0, ge=0)
    """Saves that fell due while one was still on its way, since the pod started."""

    checkpoint_interval_seconds: float | None = None
    """Seconds between saves, where the clock decides."""

    checkpoint_stall_seconds: float | None = None
    """How long training waited for the newest save."""

    checkpoint_save_seconds: float | None = None
    """How long the newest committed save took, from its beginning on."""

    checkpoint_refused: str = Field(default="", max_length=MAX_MESSAGE_CHARACTERS)
    """Which checkpoints were refused last on resuming, why, and what was taken instead."""

    loss_spikes: int | None = None
    """Times that the loss rose far above its median, over this round."""

    overflows: int | None = None
    """Steps of the run that were left out, since their gradients were beyond float16."""

    rollbacks: int | None = None
    """Times that the run went back to a checkpoint, since the loss ran away."""

    skipped_batches: int | None = None
    """Batches that it leaves out since."""

    divergence: str = Field(default="", max_length=MAX_MESSAGE_CHARACTERS)
    """What the newest rollback was for."""

    straggler: str = Field(default="", max_length=MAX_MESSAGE_CHARACTERS)
    """Which rank the others have been waiting for, for long; empty: none."""

    straggler_rank: int | None = None
    """That rank; says nothing where there is none."""

    last_loss: str = Field(default="", max_length=MAX_MESSAGE_CHARACTERS)
    """How the newest round without success ended for this pod; empty: none has."""

    storage_safe: bool | None = None
    """Whether the store refuses to overwrite a manifest; absent until probed."""

    phase_seconds: dict[str, float] = {}
    """Seconds of rank 0 by phase, over this round."""

    ranks: list[RankProgress] = []
    """The ranks of this pod."""

    now: float
    """The pod's clock (Unix seconds) when it answered."""
