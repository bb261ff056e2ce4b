"""`RunConfig`: all that a pod is told. One JSON file, the same for every pod of a job.

Below: the models of the spec. Above: the operator renders it (to a ConfigMap, or a file in a
local run), the trainer reads it. What differs from pod to pod (stage, index, incarnation) is
on the command line:

    python -m llmtrain_trainer agent --config run.json --stage train --index 0 --incarnation 0
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from llmtrain_api.base import Model
from llmtrain_api.checkpoint import CheckpointSpec
from llmtrain_api.data import DataSpec
from llmtrain_api.evaluation import BEST_CHECKPOINT, EvaluationSpec
from llmtrain_api.network import ModelSpec
from llmtrain_api.objective import LossOn, Objective, find_objective
from llmtrain_api.records import Stage
from llmtrain_api.sources import S3Uri
from llmtrain_api.training import TrainingSpec
from llmtrain_api.usage import Usage
from llmtrain_api.workers import Strategy

AGENT_PORT = 9400
"""Port of an agent in a pod: /metrics, /progress, /healthz and the rendezvous of the workers."""

CONFIG_PATH = "/etc/llmtrain/run.json"
CREDENTIALS_DIRECTORY = "/var/run/secrets/llmtrain"
CA_PATH = "/etc/llmtrain-ca/ca.crt"
TERMINATION_LOG = "/dev/termination-log"

RUN_RECORD = "run.json"
"""Key, below a run, of what the run was told (`RunConfig.describe`)."""


class StorageConfig(Model):
    """How the store is reached. URIs are s3:// everywhere; `local_root` maps them to a folder."""

    uri: S3Uri
    """Bucket and prefix that everything is written under."""

    endpoint: str | None = None
    """S3 server; absent: AWS."""

    region: str = "us-east-1"
    """Region that requests are signed for."""

    credentials_directory: str | None = None
    """Folder with files accessKey and secretKey, read anew as they rotate; absent: anonymous."""

    ca_file: str | None = None
    """CA bundle for the endpoint."""

    local_root: str | None = None
    """In a local run: s3://bucket/key is the file <local_root>/bucket/key."""


class Rendezvous(Model):
    """Where the workers of a stage meet."""

    leader_host: str
    """Stable host name (or address) of worker 0."""

    evaluation_leader_host: str | None = None
    """The same of the workers that share an evaluation; absent: leaderHost."""

    port: int = Field(default=AGENT_PORT, ge=1, le=65535)
    """Port of worker 0's agent. In a local run worker i listens on port + i."""

    port_per_worker: bool = False
    """true where workers share a host (a local run)."""

    def find_leader(self, stage: Stage) -> str:
        """Return the host of worker 0 of a stage."""
        own = self.evaluation_leader_host if stage is Stage.EVALUATE else None
        return own or self.leader_host

    def find_port(self, index: int) -> int:
        """Return the port that worker `index` listens on."""
        return self.port + index if self.port_per_worker else self.port


class RunConfig(Model):
    """All that a pod is told."""

    namespace: str
    """Namespace of the job."""

    name: str
    """Name of the job."""

    uid: str
    """Unique id of the job object: a job of the same name made later is another run."""

    run_uri: S3Uri
    """Where this run's checkpoints, export and evaluation lie."""

    parent: str | None = None
    """The run that this one was made after, as the job's annotation llmtrain.dev/parent says."""

    data: DataSpec
    model: ModelSpec
    training: TrainingSpec
    evaluation: EvaluationSpec
    checkpoint: CheckpointSpec

    strategy: Strategy
    """How the model is spread over the ranks."""

    replicas: int = Field(ge=1)
    """Workers of the training stage; a pod that is told of another number goes by that."""

    processes_per_worker: int = Field(ge=1)
    """Ranks of a worker."""

    tensor_parallel: int = Field(default=1, ge=1)
    """Ranks that divide matrices among them, in training."""

    threads_per_process: int | None = Field(default=None, ge=1)
    """Processor threads of a rank; absent: the cores the process may use, divided among the
    ranks that share them."""

    storage: StorageConfig
    """How the store is reached."""

    rendezvous: Rendezvous
    """Where the workers of a stage meet."""

    def find_port(self, stage: Stage, index: int) -> int:
        """Return the port that a worker's agent listens on.

        Where workers share a host, those of a stage may start while others of the stage before,
        which have nothing to do any more, still end: all but worker 0 of the stages beside
        training have ports of their own.
        """
        is_late = stage is not Stage.TRAIN and index > 0
        return self.rendezvous.find_port(self.replicas - 1 + index if is_late else index)

    def describe(self) -> dict[str, Any]:
        """Return JSON-ready data of all but where this run's processes find store and leader."""
        told = self.dump()
        return {key: told[key] for key in told if key not in ("storage", "rendezvous")}

    def count_workers(self, stage: Stage) -> int:
        """Return how many workers of a stage run rounds together.

        A task of preparation is alone, so that the end of one ends no other.
        """
        together = {Stage.TRAIN: self.replicas, Stage.EVALUATE: self.evaluation.workers}
        return together.get(stage, 1)

    def count_local_ranks(self, stage: Stage) -> int:
        """Return how many ranks each worker of a stage has."""
        return 1 if stage is Stage.PREPARE else self.processes_per_worker

    @property
    def world_size(self) -> int:
        """Ranks that train together."""
        return self.replicas * self.processes_per_worker

    @property
    def num_readers(self) -> int:
        """Ranks, or groups of ranks, that read different samples in training."""
        return self.world_size // self.tensor_parallel

    @property
    def objective(self) -> Objective:
        """What is predicted."""
        return find_objective(self.model, self.training.objective)

    @property
    def keeps_best(self) -> bool:
        """Whether the weights with the lowest held-out loss are saved and kept."""
        is_evaluated = BEST_CHECKPOINT in self.evaluation.checkpoints
        return is_evaluated or self.training.early_stopping is not None

    @property
    def loss_on(self) -> LossOn:
        """What is learned of a conversation."""
        default = LossOn.ASSISTANT if self.data.has_conversations else LossOn.ALL
        return self.training.loss_on or default

    @property
    def learns_turns(self) -> bool:
        """Whether a causal model learns what an assistant says."""
        return self.objective is Objective.CAUSAL and self.loss_on is LossOn.ASSISTANT

    @property
    def learning_rate(self) -> float:
        """Peak of the learning rate."""
        return self.training.find_learning_rate(self.model)


class RunPlace(Model):
    """A run that somebody looks at: where it lies, and what only its job's status knows."""

    name: str
    """What it is called beside others."""

    uri: S3Uri
    """Where its report and checkpoints lie."""

    storage: StorageConfig
    """How its store is reached."""

    usage: Usage | None = None
    """Its ledger; absent: the job's status is not at hand."""

    kilowatt_hours: float | None = Field(default=None, ge=0.0)
    """Energy of its GPUs by their rated power; absent: it is not known which they are."""

    cost: float | None = Field(default=None, ge=0.0)
    """What its machines cost, in the currency that the price was given in; absent: no price."""
