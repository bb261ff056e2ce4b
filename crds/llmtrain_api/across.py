"""What parts of a job's spec say about each other: every rule in CEL, in Python and in words.

Below: the models of each part. Above: `job`, whose `JobSpec` the server holds to the CEL and
pydantic to the Python; a test gives both the same specs. Changes of a spec are `job`'s own, and
what one part says of itself is that part's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmtrain_api.base import cel
from llmtrain_api.data import TRAINED_KINDS, TokenizerKind
from llmtrain_api.evaluation import (
    BITS_PER_BYTE_RULE,
    CHECKPOINT_STEPS_RULE,
    CLASSES_PATTERN,
    CLASSES_RULE,
    SUITE_OBJECTIVE_RULE,
    SUITE_TOKENS_RULE,
    HeldOut,
    names_any,
)
from llmtrain_api.network import DEFAULT_HEADS, Architecture
from llmtrain_api.objective import (
    MAX_SPANS,
    OBJECTIVE_RULE,
    SPANS_RULE,
    Objective,
    goes_with,
)
from llmtrain_api.optimizer import OptimizerKind
from llmtrain_api.suites import SuiteKind
from llmtrain_api.training import ActivationCheckpointing, write_batch_in_cel

if TYPE_CHECKING:
    from llmtrain_api.job import JobSpec

SPAN_VOCABULARY = 1000
"""Every byte, a token for each span, and words."""

_IS_CAUSAL = (
    "(has(self.training.objective) ? self.training.objective == 'causal' : "
    "!(self.model.architecture in ['bert', 't5']))"
)
"""CEL for what `JobSpec.objective` says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What every spec must hold."""

    field: str
    """The one to blame."""

    words: str
    """What is allowed, for people."""

    cel: str
    """The rule over `self`, a `JobSpec`."""

    holds: Callable[[JobSpec], bool]
    """The same rule in Python."""

    def dump(self) -> dict[str, Any]:
        """Return the entry of `x-kubernetes-validations`."""
        return cel(self.cel, self.words, field=self.field)


def _labels_are_named(spec: JobSpec) -> bool:
    fields = [source.fields for source in spec.data.sources]
    has_one = all(f is not None and f.label is not None for f in fields)
    has_several = all(f is not None and f.labels is not None for f in fields)
    return spec.data.pack is None and (has_one or has_several)


def _spans_fit(spec: JobSpec) -> bool:
    corruption = spec.training.span_corruption
    length = float(spec.training.sequence_length)
    return length * corruption.share / corruption.mean_span_tokens <= MAX_SPANS


def _warmup_ends(spec: JobSpec) -> bool:
    warmup_steps, steps = spec.training.optimizer.warmup_steps, spec.training.steps
    return warmup_steps is None or steps is None or warmup_steps <= steps


def _vocabulary_has_spans(spec: JobSpec) -> bool:
    tokenizer = spec.data.tokenizer
    is_trained = tokenizer.kind in TRAINED_KINDS
    return not is_trained or tokenizer.vocabulary_size >= SPAN_VOCABULARY


def _answers_fit(spec: JobSpec) -> bool:
    return all(
        suite.kind is not SuiteKind.GENERATION
        or suite.max_new_tokens < spec.training.sequence_length
        for suite in spec.evaluation.suites
    )


def _checkpoints_are_reached(spec: JobSpec) -> bool:
    steps = spec.training.steps
    return steps is None or all(step <= steps for step in spec.evaluation.checkpoint_steps)


def _heads_are_divided(spec: JobSpec) -> bool:
    network, parts = spec.model.resolve(), spec.workers.tensor_parallel
    return network.heads % parts == 0 and network.key_value_heads % parts == 0


def _is_warm(spec: JobSpec) -> bool:
    return spec.model.pretrained is not None


def _is_divided(spec: JobSpec) -> bool:
    return spec.workers.tensor_parallel > 1


RULES = (
    Rule(
        field="training.optimizer.warmupSteps",
        words="training.optimizer.warmupSteps must be at most training.steps",
        cel="!has(self.training.optimizer.warmupSteps) || !has(self.training.steps) || "
        "self.training.optimizer.warmupSteps <= self.training.steps",
        holds=_warmup_ends,
    ),
    Rule(
        field="training.objective",
        words=OBJECTIVE_RULE,
        cel="!has(self.training.objective) || has(self.model.from) || "
        "(self.training.objective == 'classification' ? "
        "self.model.architecture in ['gpt2', 'llama', 'bert'] : "
        "self.training.objective == 'sequence-to-sequence' ? "
        "self.model.architecture == 't5' : "
        "(self.training.objective == 'masked') == "
        "(self.model.architecture == 'bert') && "
        "(self.training.objective == 'span-corruption') == "
        "(self.model.architecture == 't5'))",
        holds=lambda spec: _is_warm(spec) or goes_with(spec.model.architecture, spec.objective),
    ),
    Rule(
        field="training.objective",
        words="training.objective: classification needs fields.label in every one of "
        "data.sources, or fields.labels in every one, and is without data.pack",
        cel="!has(self.training.objective) || self.training.objective != 'classification' || "
        "(!has(self.data.pack) && (self.data.sources.all("
        "source, has(source.fields) && has(source.fields.label)) || "
        "self.data.sources.all(source, has(source.fields) && has(source.fields.labels))))",
        holds=lambda spec: (
            spec.objective is not Objective.CLASSIFICATION or _labels_are_named(spec)
        ),
    ),
    Rule(
        field="training.objective",
        words="training.objective: sequence-to-sequence needs fields.source and target, or prompt "
        "and response, in every one of data.sources, and is without data.pack",
        cel="!has(self.training.objective) || self.training.objective != 'sequence-to-sequence' "
        "|| (!has(self.data.pack) && self.data.sources.all(source, has(source.fields) && "
        "(has(source.fields.source) || has(source.fields.prompt))))",
        holds=lambda spec: (
            spec.objective is not Objective.SEQUENCE_TO_SEQUENCE
            or (spec.data.pack is None and all(source.is_pair for source in spec.data.sources))
        ),
    ),
    Rule(
        field="training.sequenceLength",
        words=SPANS_RULE,
        cel="(has(self.training.objective) ? self.training.objective != 'span-corruption' : "
        "self.model.architecture != 't5') || "
        "double(self.training.sequenceLength) * self.training.spanCorruption.share / "
        f"self.training.spanCorruption.meanSpanTokens <= {float(MAX_SPANS)}",
        holds=lambda spec: spec.objective is not Objective.SPAN_CORRUPTION or _spans_fit(spec),
    ),
    Rule(
        field="data.tokenizer.vocabularySize",
        words=f"data.tokenizer.vocabularySize must be at least {SPAN_VOCABULARY} for "
        "architecture: t5",
        cel="self.model.architecture != 't5' || "
        "!(self.data.tokenizer.kind in ['bpe', 'wordpiece', 'unigram']) || "
        f"self.data.tokenizer.vocabularySize >= {SPAN_VOCABULARY}",
        holds=lambda spec: (
            spec.model.architecture is not Architecture.T5 or _vocabulary_has_spans(spec)
        ),
    ),
    Rule(
        field="data.tokenizer.kind",
        words="with model.from the tokenizer is the model's own, or data.tokenizer.kind: "
        "pretrained",
        cel="!has(self.model.from) || self.data.tokenizer.kind in ['bpe', 'pretrained']",
        holds=lambda spec: (
            not _is_warm(spec)
            or spec.data.tokenizer.kind in (TokenizerKind.BPE, TokenizerKind.PRETRAINED)
        ),
    ),
    Rule(
        field="model.from",
        words="training.lora and training.freeze need model.from: they are about trained weights",
        cel="has(self.model.from) || (!has(self.training.lora) && !has(self.training.freeze))",
        holds=lambda spec: (
            _is_warm(spec) or (spec.training.lora is None and spec.training.freeze is None)
        ),
    ),
    Rule(
        field="training.activationCheckpointing",
        words="training.activationCheckpointing must be none for architecture: lstm",
        cel="self.model.architecture != 'lstm' || has(self.model.from) || "
        "self.training.activationCheckpointing == 'none'",
        holds=lambda spec: (
            _is_warm(spec)
            or spec.model.architecture is not Architecture.LSTM
            or spec.training.activation_checkpointing is ActivationCheckpointing.NONE
        ),
    ),
    Rule(
        field="data.pack.sequenceLength",
        words="data.pack.sequenceLength must be training.sequenceLength",
        cel="!has(self.data.pack) || self.data.pack.sequenceLength == self.training.sequenceLength",
        holds=lambda spec: (
            spec.data.pack is None
            or spec.data.pack.sequence_length == spec.training.sequence_length
        ),
    ),
    Rule(
        field="evaluation.split",
        words="evaluation.split: test needs data.split.testFraction",
        cel="self.evaluation.split != 'test' || has(self.data.split.testFraction)",
        holds=lambda spec: (
            spec.evaluation.split is not HeldOut.TEST or spec.data.split.test_fraction is not None
        ),
    ),
    Rule(
        field="evaluation.gates",
        words=BITS_PER_BYTE_RULE,
        cel=f"{_IS_CAUSAL} || !self.evaluation.gates.exists(gate, gate.contains('bits_per_byte'))",
        holds=lambda spec: (
            spec.objective is Objective.CAUSAL
            or not names_any(spec.evaluation.gates, "bits_per_byte")
        ),
    ),
    Rule(
        field="evaluation.gates",
        words=CLASSES_RULE,
        cel="(has(self.training.objective) && self.training.objective == 'classification') || "
        f"!self.evaluation.gates.exists(gate, gate.matches(r'{CLASSES_PATTERN}'))",
        holds=lambda spec: (
            spec.objective is Objective.CLASSIFICATION
            or not any(re.search(CLASSES_PATTERN, gate) for gate in spec.evaluation.gates)
        ),
    ),
    Rule(
        field="evaluation.suites",
        words=SUITE_OBJECTIVE_RULE,
        cel=f"{_IS_CAUSAL} || self.evaluation.suites.size() == 0",
        holds=lambda spec: spec.objective is Objective.CAUSAL or not spec.evaluation.suites,
    ),
    Rule(
        field="evaluation.suites",
        words=SUITE_TOKENS_RULE,
        cel="self.evaluation.suites.all(suite, suite.kind != 'generation' || "
        "suite.maxNewTokens < self.training.sequenceLength)",
        holds=_answers_fit,
    ),
    Rule(
        field="evaluation.checkpoints",
        words=CHECKPOINT_STEPS_RULE,
        cel="!has(self.training.steps) || self.evaluation.checkpoints.all(name, "
        "!name.startsWith('step-') || int(name.substring(5)) <= self.training.steps)",
        holds=_checkpoints_are_reached,
    ),
    Rule(
        field="training.batchSize",
        words="training.batchSize must be a multiple of the world size "
        "(workers.replicas × workers.processesPerWorker), divided by workers.tensorParallel",
        cel=f"{write_batch_in_cel('self.training')} % "
        "(self.workers.replicas * self.workers.processesPerWorker / "
        "self.workers.tensorParallel) == 0",
        holds=lambda spec: (
            spec.training.global_batch % spec.workers.count_readers(spec.workers.replicas) == 0
        ),
    ),
    Rule(
        field="workers.tensorParallel",
        words="workers.tensorParallel needs a plan that divides the model: architecture llama has "
        "one, and with model.from mistral and qwen2; gpt2, bert, t5 and lstm have none",
        cel="self.workers.tensorParallel == 1 || has(self.model.from) || "
        "self.model.architecture == 'llama'",
        holds=lambda spec: (
            not _is_divided(spec) or _is_warm(spec) or spec.model.architecture is Architecture.LLAMA
        ),
    ),
    Rule(
        field="workers.tensorParallel",
        words="workers.tensorParallel is without training.lora",
        cel="self.workers.tensorParallel == 1 || !has(self.training.lora)",
        holds=lambda spec: not _is_divided(spec) or spec.training.lora is None,
    ),
    Rule(
        field="workers.tensorParallel",
        words="workers.tensorParallel is for optimizer.kind adamw and muon: adafactor reads whole "
        "rows",
        cel="self.workers.tensorParallel == 1 || self.training.optimizer.kind != 'adafactor'",
        holds=lambda spec: (
            not _is_divided(spec) or spec.training.optimizer.kind is not OptimizerKind.ADAFACTOR
        ),
    ),
    Rule(
        field="workers.tensorParallel",
        words="model.heads and model.keyValueHeads must be multiples of workers.tensorParallel",
        cel="self.workers.tensorParallel == 1 || has(self.model.from) || "
        "((has(self.model.heads) ? self.model.heads : "
        f"has(self.model.size) ? 0 : {DEFAULT_HEADS}) "
        "% self.workers.tensorParallel == 0 && "
        "(!has(self.model.keyValueHeads) || "
        "self.model.keyValueHeads % self.workers.tensorParallel == 0))",
        holds=lambda spec: not _is_divided(spec) or _is_warm(spec) or _heads_are_divided(spec),
    ),
)
"""In the order in which they are told."""
