"""`LLMTrainingJob`: one training run, from raw text to an evaluated model.

Below: the models of each part of the spec, and `across` for what they say about each other.
Above: `schema`, which writes the CRD, the operator, which reconciles jobs, and `llmtrain run`,
which reads them from a file.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, StringConstraints, model_validator

from llmtrain_api.across import RULES
from llmtrain_api.base import API_VERSION, KIND, MAX_NAME_CHARACTERS, Model, cel
from llmtrain_api.checkpoint import CheckpointSpec
from llmtrain_api.data import DataSpec
from llmtrain_api.evaluation import EvaluationSpec
from llmtrain_api.network import ModelSpec
from llmtrain_api.objective import Objective, find_objective
from llmtrain_api.status import JobStatus
from llmtrain_api.training import TrainingSpec
from llmtrain_api.workers import RunPolicy, StorageSpec, WorkersSpec

FIXED_SPEC_FIELDS = (
    "data",
    "model",
    "training",
    "evaluation",
    "workers",
    "checkpoint",
    "storage",
)
"""What cannot change once the job exists, so all but runPolicy: a change is a new run. The one
exception is workers.replicas, where workers.elastic is set."""

JobName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$", max_length=MAX_NAME_CHARACTERS),
]


def _make_immutable(field: str) -> dict[str, Any]:
    return cel(
        f"self.{field} == oldSelf.{field}",
        f"{field} is fixed once the job exists; apply a job of another name for another run",
        field=field,
    )


def _make_workers_immutable() -> dict[str, Any]:
    """Let `replicas` change where `elastic` is set: every other field must stay as it is."""
    same = [
        _compare_field(f"workers.{field.alias}", is_optional=field.default is None)
        for name, field in WorkersSpec.model_fields.items()
        if name != "replicas"
    ]
    return cel(
        f"self.workers == oldSelf.workers || (has(self.workers.elastic) && {' && '.join(same)})",
        "workers is fixed once the job exists, but for replicas where elastic is set; apply a job "
        "of another name for another run",
        field="workers",
    )


def _compare_field(path: str, *, is_optional: bool) -> str:
    equal = f"self.{path} == oldSelf.{path}"
    if not is_optional:
        return equal
    both = f"has(self.{path}) == has(oldSelf.{path})"
    return f"{both} && (!has(self.{path}) || {equal})"


class JobSpec(Model):
    """What to train, on what, and with what."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                *(_make_immutable(field) for field in FIXED_SPEC_FIELDS if field != "workers"),
                _make_workers_immutable(),
                *(rule.dump() for rule in RULES),
            ]
        }
    )

    data: DataSpec
    """What the model is trained on."""

    model: ModelSpec = ModelSpec()
    """The network."""

    training: TrainingSpec
    """How it is trained."""

    evaluation: EvaluationSpec = EvaluationSpec()
    """How it is measured."""

    workers: WorkersSpec = WorkersSpec()
    """The pods that train."""

    checkpoint: CheckpointSpec = CheckpointSpec()
    """How the training state is saved."""

    storage: StorageSpec
    """Where everything is kept."""

    run_policy: RunPolicy = RunPolicy()
    """When the run is paused, retried and given up."""

    @model_validator(mode="after")
    def check_across_parts(self) -> Self:
        """Hold the CEL rules of this model in Python too, but for immutability."""
        for rule in RULES:
            if not rule.holds(self):
                raise ValueError(rule.words)
        if self.workers.tensor_parallel > 1 and self.model.pretrained is None:
            self._check_inner_width()
        return self

    def _check_inner_width(self) -> None:
        """Hold `workers.tensorParallel` to what follows from the size, which CEL cannot reckon."""
        inner_width, parts = self.model.resolve().inner_width, self.workers.tensor_parallel
        if inner_width % parts:
            raise ValueError(
                f"workers.tensorParallel ({parts}) must divide the inner width that follows "
                f"from model.hiddenSize ({inner_width})"
            )

    @property
    def objective(self) -> Objective:
        """What is predicted."""
        return find_objective(self.model, self.training.objective)

    @property
    def world_size(self) -> int:
        """Ranks that train together, if all workers that are asked for do."""
        return self.workers.replicas * self.workers.processes_per_worker


class Metadata(Model):
    """The part of an object's metadata that llmtrain reads; everything else is ignored."""

    model_config = ConfigDict(extra="ignore")

    name: JobName
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    annotations: dict[str, str] = {}
    labels: dict[str, str] = {}


class LLMTrainingJob(Model):
    """One training run, from raw text to an evaluated model."""

    api_version: Literal["llmtrain.dev/v1alpha1"] = API_VERSION
    kind: Literal["LLMTrainingJob"] = KIND
    metadata: Metadata
    spec: JobSpec
    status: JobStatus = JobStatus()

    @property
    def key(self) -> str:
        """`namespace/name`, as the work queue knows the job."""
        return f"{self.metadata.namespace}/{self.metadata.name}"
