"""`spec.workers`, `spec.storage` and `spec.runPolicy`: what the run may use, and its limits.

Below: `base`. Above: `job`, which embeds these. Rendered into pods by the operator.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from llmtrain_api.base import Model, cel
from llmtrain_api.failures import FailureBudgets
from llmtrain_api.size import ElasticSpec
from llmtrain_api.sources import S3Uri

QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"


def _read_quantity(value: object) -> object:
    """Take a bare integer, as `cpu: 4`, which YAML does not read as text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    StringConstraints(pattern=QUANTITY_PATTERN, max_length=32),
    BeforeValidator(_read_quantity),
    Field(json_schema_extra={"x-kubernetes-int-or-string": True, "minimum": 0}),
]
"""An amount as Kubernetes writes it: 500m, 2, "1.5", 512Mi, 8Gi."""

TENSOR_PARALLEL_RULE = "processesPerWorker must be a multiple of tensorParallel"

LabelText = Annotated[str, StringConstraints(max_length=316)]


class Strategy(StrEnum):
    """How the model is spread over the ranks."""

    DDP = "ddp"
    FSDP = "fsdp"
    HSDP = "hsdp"

    def count_shards(self, workers: int, processes_per_worker: int) -> int:
        """Return over how many ranks parameters are divided; 1: each rank has them all.

        With tensorParallel the processes are groups of ranks, which divide them once more.
        """
        if self is Strategy.DDP:
            return 1
        return processes_per_worker * (workers if self is Strategy.FSDP else 1)


class Resources(Model):
    """What one pod gets; requests and limits alike, so that it is never squeezed out."""

    cpu: Quantity = "1"
    """Processor cores."""

    memory: Quantity = "4Gi"
    """Memory; a pod that takes more is killed."""

    gpu: int = Field(default=0, ge=0, le=64)
    """GPUs (nvidia.com/gpu); training then runs on nccl, else on gloo."""

    shared_memory: Quantity = "256Mi"
    """Size of /dev/shm, counted into memory. Each rank stages its share of a checkpoint there if
    it fits, else on the pod's disk."""


class Toleration(Model):
    """A taint that pods may ignore, as in a pod's spec.tolerations."""

    key: LabelText | None = None
    """Taint key; absent with operator Exists: every taint."""

    operator: Literal["Exists", "Equal"] = "Equal"
    """Equal compares value, Exists does not."""

    value: LabelText | None = None
    """Taint value for operator Equal."""

    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Taint effect; absent: every effect."""


class WorkersSpec(Model):
    """The pods that train."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "!has(self.elastic) || self.elastic.minReplicas <= self.replicas",
                    "replicas must be at least elastic.minReplicas",
                    field="replicas",
                ),
                cel(
                    "self.processesPerWorker % self.tensorParallel == 0",
                    TENSOR_PARALLEL_RULE,
                    field="tensorParallel",
                ),
            ]
        }
    )

    replicas: int = Field(default=1, ge=1, le=10_000)
    """Worker pods. With elastic it can be changed while the job runs, as by kubectl scale."""

    elastic: ElasticSpec | None = None
    """What numbers of workers may train; absent: replicas and no other."""

    processes_per_worker: int = Field(default=1, ge=1, le=64)
    """Ranks in a pod, one for each GPU; the world size is replicas × processesPerWorker."""

    tensor_parallel: int = Field(default=1, ge=1, le=64)
    """Ranks of a worker that divide the matrices of each block among them, and read the same
    samples; processesPerWorker is a multiple of it. For model.architecture: llama and, with
    model.from, mistral and qwen2: it divides their heads, keyValueHeads and inner width. 1: no
    division."""

    strategy: Strategy = Strategy.DDP
    """ddp: every rank holds the model; fsdp: parameters and optimizer state are divided over all
    ranks; hsdp: over the ranks of each worker, and every worker holds them all, so that only
    gradients go from worker to worker. With tensorParallel the same of groups of ranks."""

    image: str | None = Field(default=None, min_length=1, max_length=512)
    """Trainer image; absent: the operator's default."""

    resources: Resources = Resources()
    """What each worker pod gets. The prepare and evaluate pods get the same, without GPUs for
    prepare."""

    node_selector: dict[str, LabelText] = Field(default={}, max_length=32)
    """Labels that a node must have."""

    tolerations: list[Toleration] = Field(default=[], max_length=32)
    """Taints that the pods may ignore."""

    @model_validator(mode="after")
    def check_numbers(self) -> Self:
        """Hold the CEL rules of this model in Python too."""
        if self.elastic is not None and self.elastic.min_replicas > self.replicas:
            raise ValueError("replicas must be at least elastic.minReplicas")
        if self.processes_per_worker % self.tensor_parallel:
            raise ValueError(TENSOR_PARALLEL_RULE)
        return self

    def count_readers(self, workers: int) -> int:
        """Return how many ranks, or groups of ranks, of so many workers read different samples."""
        return workers * self.processes_per_worker // self.tensor_parallel


class StorageSpec(Model):
    """The object store that holds datasets, checkpoints, the exported model and reports."""

    uri: S3Uri
    """Bucket and prefix, as s3://bucket/prefix: everything that llmtrain writes lies under it."""

    endpoint: str | None = Field(
        default=None, pattern=r"^https?://[A-Za-z0-9.\-\[\]:]+(:[0-9]+)?/?$", max_length=512
    )
    """Address of a MinIO or other S3 server, as http://minio.minio:9000; absent: AWS."""

    region: str = Field(default="us-east-1", min_length=1, max_length=64)
    """Region that requests are signed for."""

    credentials_secret: str | None = Field(
        default=None, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=253
    )
    """Secret in the job's namespace with keys accessKey and secretKey, mounted as files; absent:
    requests are anonymous."""

    ca_config_map: str | None = Field(
        default=None, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=253
    )
    """ConfigMap in the job's namespace with key ca.crt, trusted for the endpoint."""


class RunPolicy(Model):
    """When the run is paused, retried and given up."""

    suspend: bool = False
    """true frees the pods; false again goes on from the last checkpoint."""

    restart_limit: int = Field(default=10, ge=0, le=10_000)
    """Pods of a stage that may fail and be replaced, before the job fails. What the platform does
    (preemption, a lost node, a broken GPU) costs nothing."""

    no_progress_limit: int = Field(default=5, ge=1, le=10_000)
    """Failures of one worker in a row, of the same cause and without a newer checkpoint, after
    which the job fails: one more attempt would end alike."""

    placement_timeout_seconds: int = Field(default=600, ge=10, le=31_536_000)
    """Seconds that workers with a place wait for those without one, before all are released and
    later tried again."""

    budgets: FailureBudgets = FailureBudgets()
    """Limits for single classes of failure, which then cost nothing of restartLimit."""

    ttl_seconds_after_finished: int = Field(default=3600, ge=0, le=31_536_000)
    """Seconds that finished pods are kept for their logs. The job itself and its data stay."""
