"""`LLMTrainingJob`: one training run, from raw text to an evaluated model.

Below: the models of each part of the spec. Above: `schema`, which writes the CRD, the
operator, which reconciles jobs, and `llmtrain run`, which reads them from a file.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, StringConstraints, model_validator

from llmtrain_api.base import API_VERSION, KIND, MAX_NAME_CHARACTERS, Model, cel
from llmtrain_api.checkpoint import CheckpointSpec
from llmtrain_api.data import TRAINED_KINDS, DataSpec, TokenizerKind
from llmtrain_api.evaluation import (
    BITS_PER_BYTE_RULE,
    CHECKPOINT_STEPS_RULE,
    CLASSES_PATTERN,
    CLASSES_RULE,
    SUITE_OBJECTIVE_RULE,
    SUITE_TOKENS_RULE,
    EvaluationSpec,
    HeldOut,
    names_any,
)
from llmtrain_api.network import DEFAULT_HEADS, Architecture, ModelSpec
from llmtrain_api.objective import (
    MAX_SPANS,
    OBJECTIVE_RULE,
    SPANS_RULE,
    Objective,
    find_objective,
    goes_with,
)
from llmtrain_api.optimizer import OptimizerKind
from llmtrain_api.status import JobStatus
from llmtrain_api.suites import SuiteKind
from llmtrain_api.training import (
    ActivationCheckpointing,
    TrainingSpec,
    write_batch_in_cel,
)
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

_IS_CAUSAL = (
    "(has(self.training.objective) ? self.training.objective == 'causal' : "
    "!(self.model.architecture in ['bert', 't5']))"
)
"""CEL for what `JobSpec.objective` says."""

PACK_RULE = "data.pack.sequenceLength must be training.sequenceLength"
FROM_TOKENIZER_RULE = (
    "with model.from the tokenizer is the model's own, or data.tokenizer.kind: pretrained"
)
FROM_RULE = "training.lora and training.freeze need model.from: they are about trained weights"
RECOMPUTED_RULE = "training.activationCheckpointing must be none for architecture: lstm"
CLASSIFICATION_RULE = (
    "training.objective: classification needs fields.label in every one of data.sources, or "
    "fields.labels in every one, and is without data.pack"
)
PAIRS_RULE = (
    "training.objective: sequence-to-sequence needs fields.source and target, or prompt and "
    "response, in every one of data.sources, and is without data.pack"
)
TEST_SPLIT_RULE = "evaluation.split: test needs data.split.testFraction"

SPAN_VOCABULARY = 1000
"""Every byte, a token for each span, and words."""

SPAN_VOCABULARY_RULE = (
    f"data.tokenizer.vocabularySize must be at least {SPAN_VOCABULARY} for architecture: t5"
)

BATCH_RANKS_RULE = (
    "training.batchSize must be a multiple of the world size "
    "(workers.replicas × workers.processesPerWorker), divided by workers.tensorParallel"
)
DIVIDED_ARCHITECTURE_RULE = (
    "workers.tensorParallel needs a plan that divides the model: architecture llama has one, and "
    "with model.from mistral and qwen2; gpt2, bert, t5 and lstm have none"
)
DIVIDED_ADAPTERS_RULE = "workers.tensorParallel is without training.lora"
DIVIDED_OPTIMIZER_RULE = (
    "workers.tensorParallel is for optimizer.kind adamw and muon: adafactor reads whole rows"
)
DIVIDED_HEADS_RULE = (
    "model.heads and model.keyValueHeads must be multiples of workers.tensorParallel"
)

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
                cel(
                    "!has(self.training.optimizer.warmupSteps) || !has(self.training.steps) || "
                    "self.training.optimizer.warmupSteps <= self.training.steps",
                    "training.optimizer.warmupSteps must be at most training.steps",
                    field="training.optimizer.warmupSteps",
                ),
                cel(
                    "!has(self.training.objective) || has(self.model.from) || "
                    "(self.training.objective == 'classification' ? "
                    "self.model.architecture in ['gpt2', 'llama', 'bert'] : "
                    "self.training.objective == 'sequence-to-sequence' ? "
                    "self.model.architecture == 't5' : "
                    "(self.training.objective == 'masked') == "
                    "(self.model.architecture == 'bert') && "
                    "(self.training.objective == 'span-corruption') == "
                    "(self.model.architecture == 't5'))",
                    OBJECTIVE_RULE,
                    field="training.objective",
                ),
                cel(
                    "(has(self.training.objective) ? "
                    "self.training.objective != 'span-corruption' : "
                    "self.model.architecture != 't5') || "
                    "double(self.training.sequenceLength) * self.training.spanCorruption.share / "
                    f"self.training.spanCorruption.meanSpanTokens <= {float(MAX_SPANS)}",
                    SPANS_RULE,
                    field="training.sequenceLength",
                ),
                cel(
                    "self.model.architecture != 't5' || "
                    "!(self.data.tokenizer.kind in ['bpe', 'wordpiece', 'unigram']) || "
                    f"self.data.tokenizer.vocabularySize >= {SPAN_VOCABULARY}",
                    SPAN_VOCABULARY_RULE,
                    field="data.tokenizer.vocabularySize",
                ),
                cel(
                    "!has(self.model.from) || self.data.tokenizer.kind in ['bpe', 'pretrained']",
                    FROM_TOKENIZER_RULE,
                    field="data.tokenizer.kind",
                ),
                cel(
                    "!has(self.training.objective) || "
                    "self.training.objective != 'classification' || "
                    "(!has(self.data.pack) && (self.data.sources.all("
                    "source, has(source.fields) && has(source.fields.label)) || "
                    "self.data.sources.all("
                    "source, has(source.fields) && has(source.fields.labels))))",
                    CLASSIFICATION_RULE,
                    field="training.objective",
                ),
                cel(
                    "!has(self.training.objective) || "
                    "self.training.objective != 'sequence-to-sequence' || "
                    "(!has(self.data.pack) && self.data.sources.all(source, has(source.fields) && "
                    "(has(source.fields.source) || has(source.fields.prompt))))",
                    PAIRS_RULE,
                    field="training.objective",
                ),
                cel(
                    "has(self.model.from) || "
                    "(!has(self.training.lora) && !has(self.training.freeze))",
                    FROM_RULE,
                    field="model.from",
                ),
                cel(
                    "self.model.architecture != 'lstm' || has(self.model.from) || "
                    "self.training.activationCheckpointing == 'none'",
                    RECOMPUTED_RULE,
                    field="training.activationCheckpointing",
                ),
                cel(
                    "!has(self.data.pack) || "
                    "self.data.pack.sequenceLength == self.training.sequenceLength",
                    PACK_RULE,
                    field="data.pack.sequenceLength",
                ),
                cel(
                    "self.evaluation.split != 'test' || has(self.data.split.testFraction)",
                    TEST_SPLIT_RULE,
                    field="evaluation.split",
                ),
                cel(
                    f"{_IS_CAUSAL} || "
                    "!self.evaluation.gates.exists(gate, gate.contains('bits_per_byte'))",
                    BITS_PER_BYTE_RULE,
                    field="evaluation.gates",
                ),
                cel(
                    "(has(self.training.objective) && "
                    "self.training.objective == 'classification') || "
                    f"!self.evaluation.gates.exists(gate, gate.matches(r'{CLASSES_PATTERN}'))",
                    CLASSES_RULE,
                    field="evaluation.gates",
                ),
                cel(
                    f"{_IS_CAUSAL} || self.evaluation.suites.size() == 0",
                    SUITE_OBJECTIVE_RULE,
                    field="evaluation.suites",
                ),
                cel(
                    "self.evaluation.suites.all(suite, suite.kind != 'generation' || "
                    "suite.maxNewTokens < self.training.sequenceLength)",
                    SUITE_TOKENS_RULE,
                    field="evaluation.suites",
                ),
                cel(
                    "!has(self.training.steps) || self.evaluation.checkpoints.all(name, "
                    "!name.startsWith('step-') || "
                    "int(name.substring(5)) <= self.training.steps)",
                    CHECKPOINT_STEPS_RULE,
                    field="evaluation.checkpoints",
                ),
                cel(
                    f"{write_batch_in_cel('self.training')} % "
                    "(self.workers.replicas * self.workers.processesPerWorker / "
                    "self.workers.tensorParallel) == 0",
                    BATCH_RANKS_RULE,
                    field="training.batchSize",
                ),
                cel(
                    "self.workers.tensorParallel == 1 || has(self.model.from) || "
                    "self.model.architecture == 'llama'",
                    DIVIDED_ARCHITECTURE_RULE,
                    field="workers.tensorParallel",
                ),
                cel(
                    "self.workers.tensorParallel == 1 || !has(self.training.lora)",
                    DIVIDED_ADAPTERS_RULE,
                    field="workers.tensorParallel",
                ),
                cel(
                    "self.workers.tensorParallel == 1 || "
                    "self.training.optimizer.kind != 'adafactor'",
                    DIVIDED_OPTIMIZER_RULE,
                    field="workers.tensorParallel",
                ),
                cel(
                    "self.workers.tensorParallel == 1 || has(self.model.from) || "
                    "((has(self.model.heads) ? self.model.heads : "
                    f"has(self.model.size) ? 0 : {DEFAULT_HEADS}) "
                    "% self.workers.tensorParallel == 0 && "
                    "(!has(self.model.keyValueHeads) || "
                    "self.model.keyValueHeads % self.workers.tensorParallel == 0))",
                    DIVIDED_HEADS_RULE,
                    field="workers.tensorParallel",
                ),
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
        warmup_steps = self.training.optimizer.warmup_steps
        steps = self.training.steps
        if warmup_steps is not None and steps is not None and warmup_steps > steps:
            raise ValueError("training.optimizer.warmupSteps must be at most training.steps")
        self._check_objective()
        keeps = self.training.lora is not None or self.training.freeze is not None
        if keeps and self.model.pretrained is None:
            raise ValueError(FROM_RULE)
        recomputes = self.training.activation_checkpointing is not ActivationCheckpointing.NONE
        is_built = self.model.pretrained is None
        if recomputes and is_built and self.model.architecture is Architecture.LSTM:
            raise ValueError(RECOMPUTED_RULE)
        pack = self.data.pack
        if pack is not None and pack.sequence_length != self.training.sequence_length:
            raise ValueError(PACK_RULE)
        has_test = self.data.split.test_fraction is not None
        if self.evaluation.split is HeldOut.TEST and not has_test:
            raise ValueError(TEST_SPLIT_RULE)
        self._check_evaluation()
        if self.training.global_batch % self.workers.count_readers(self.workers.replicas):
            raise ValueError(BATCH_RANKS_RULE)
        if self.workers.tensor_parallel > 1:
            self._check_division()
        return self

    def _check_division(self) -> None:
        """Hold the shape to `workers.tensorParallel`; also what follows from `model.size`."""
        num_parts = self.workers.tensor_parallel
        if self.training.lora is not None:
            raise ValueError(DIVIDED_ADAPTERS_RULE)
        if self.training.optimizer.kind is OptimizerKind.ADAFACTOR:
            raise ValueError(DIVIDED_OPTIMIZER_RULE)
        if self.model.pretrained is not None:
            return  # what it is shows when it is read
        network = self.model.resolve()
        if network.architecture is not Architecture.LLAMA:
            raise ValueError(DIVIDED_ARCHITECTURE_RULE)
        if network.heads % num_parts or network.key_value_heads % num_parts:
            raise ValueError(DIVIDED_HEADS_RULE)
        if network.inner_width % num_parts:
            raise ValueError(
                f"workers.tensorParallel ({num_parts}) must divide the inner width that follows "
                f"from model.hiddenSize ({network.inner_width})"
            )

    def _check_evaluation(self) -> None:
        for suite in self.evaluation.suites:
            is_generation = suite.kind is SuiteKind.GENERATION
            if is_generation and suite.max_new_tokens >= self.training.sequence_length:
                raise ValueError(SUITE_TOKENS_RULE)
        steps = self.training.steps
        if steps is not None and any(s > steps for s in self.evaluation.checkpoint_steps):
            raise ValueError(CHECKPOINT_STEPS_RULE)
        gates, objective = self.evaluation.gates, self.objective
        names_classes = any(re.search(CLASSES_PATTERN, gate) for gate in gates)
        if objective is not Objective.CLASSIFICATION and names_classes:
            raise ValueError(CLASSES_RULE)
        if objective is not Objective.CAUSAL and names_any(gates, "bits_per_byte"):
            raise ValueError(BITS_PER_BYTE_RULE)
        if objective is not Objective.CAUSAL and self.evaluation.suites:
            raise ValueError(SUITE_OBJECTIVE_RULE)

    def _check_objective(self) -> None:
        training, tokenizer = self.training, self.data.tokenizer
        is_warm = self.model.pretrained is not None
        if not is_warm and not goes_with(self.model.architecture, self.objective):
            raise ValueError(OBJECTIVE_RULE)
        if self.objective is Objective.CLASSIFICATION:
            fields = [source.fields for source in self.data.sources]
            has_one = all(f is not None and f.label is not None for f in fields)
            has_several = all(f is not None and f.labels is not None for f in fields)
            if self.data.pack is not None or not (has_one or has_several):
                raise ValueError(CLASSIFICATION_RULE)
        if self.objective is Objective.SEQUENCE_TO_SEQUENCE and (
            self.data.pack is not None or not all(s.is_pair for s in self.data.sources)
        ):
            raise ValueError(PAIRS_RULE)
        if is_warm and tokenizer.kind not in (TokenizerKind.BPE, TokenizerKind.PRETRAINED):
            raise ValueError(FROM_TOKENIZER_RULE)
        if self.objective is not Objective.SPAN_CORRUPTION:
            return
        corruption = training.span_corruption
        length = float(training.sequence_length)
        if length * corruption.share / corruption.mean_span_tokens > MAX_SPANS:
            raise ValueError(SPANS_RULE)
        is_trained = tokenizer.kind in TRAINED_KINDS
        if not is_warm and is_trained and tokenizer.vocabulary_size < SPAN_VOCABULARY:
            raise ValueError(SPAN_VOCABULARY_RULE)

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
