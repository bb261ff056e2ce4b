"""`spec.evaluation`: what a model is measured on, what it must reach, and what it is compared with.

Below: `base`, `gates`, `suites`. Above: `job`, which embeds it, and `run`, which hands it to the
trainer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator

from llmtrain_api.base import Model, cel
from llmtrain_api.gates import (
    GATE_PATTERN,
    GATE_RULE,
    MAX_GATE_CHARACTERS,
    MAX_GATES,
    check_names,
    parse_gate,
)
from llmtrain_api.sources import S3Uri
from llmtrain_api.suites import SUITE_METRICS, Suite

ALL_SUITE_METRICS = frozenset(name for names in SUITE_METRICS.values() for name in names)

AVERAGES = ("macro", "micro", "weighted")
"""Over labels, as scikit-learn calls them."""

AVERAGED_METRICS = ("f1", "precision", "recall")

CLASS_METRICS = (
    *(f"{metric}_{average}" for metric in AVERAGED_METRICS for average in AVERAGES),
    "average_precision",
    "ece",
    "roc_auc",
)
"""What is measured of labels beside their loss and accuracy; classification only."""

METRICS = {
    "loss": "nats for each target",
    "perplexity": "exp(loss)",
    "accuracy": "share of the targets that are right at the first guess",
    **dict.fromkeys(CLASS_METRICS, "of labels; classification only"),
    "bits_per_byte": "loss in bits for each byte of UTF-8, where every token is predicted",
}
"""What every evaluation measures, on all text of evaluation.split."""

UNIGRAM_METRICS = ("unigram.loss", "unigram.perplexity", "unigram.bits_per_byte")
"""The same of a model that knows the frequencies of tokens, or of labels, only."""

MAJORITY_METRICS = ("majority.accuracy",)
"""Of always saying the commonest label of the training documents; classification only."""

TFIDF_METRICS = tuple(f"tfidf.{name}" for name in ("accuracy", *CLASS_METRICS))
"""Of logistic regression on the weights of words (TF-IDF); classification only."""

BASELINE_METRICS = tuple(f"baseline.{name}" for name in METRICS)
"""The same of the run that evaluation.baseline names."""

GATE_METRICS = (
    *METRICS,
    *UNIGRAM_METRICS,
    *MAJORITY_METRICS,
    *TFIDF_METRICS,
    *BASELINE_METRICS,
)
"""All that a gate may name without a suite."""

_OF_A_SUITE = rf"(?:baseline\.)?[a-z][a-z0-9_]*\.(?:{'|'.join(sorted(ALL_SUITE_METRICS))})"
_OF_CLASSES = (
    rf"(?:{'|'.join(AVERAGED_METRICS)})_(?:{'|'.join(AVERAGES)})|average_precision|ece|roc_auc"
)
_OF_NO_SUITE = (
    r"unigram\.(?:loss|perplexity|bits_per_byte)|majority\.accuracy|"
    rf"tfidf\.(?:accuracy|{_OF_CLASSES})"
)
_OF_ALL = rf"(?:baseline\.)?(?:loss|perplexity|accuracy|bits_per_byte|{_OF_CLASSES})|{_OF_NO_SUITE}"
NAMES_PATTERN = rf"^\W*(?:(?:[0-9][\w.]*|{_OF_ALL}|{_OF_A_SUITE})(?:[^\w.]+|$))*$"
"""A text whose words are all numbers or metrics, for the server: of any suite."""

NAMES_RULE = (
    f"a gate names a metric that there is not; known here: {', '.join(METRICS)}, each as "
    f"baseline.…, too; {', '.join((*UNIGRAM_METRICS, *MAJORITY_METRICS))}; tfidf.… of accuracy and "
    f"what is about labels; and of a suite <name>.{', '.join(sorted(ALL_SUITE_METRICS))}"
)

SUITE_RULE = "a gate names a metric of a suite that evaluation.suites has not"
SUITE_NAMES_RULE = "every suite needs a name of its own"
SUITE_TOKENS_RULE = (
    "evaluation.suites: maxNewTokens of kind: generation must be less than "
    "training.sequenceLength, which prompt and answer share"
)
CHECKPOINTS_RULE = "evaluation.checkpoints names a checkpoint twice"
CHECKPOINT_STEPS_RULE = (
    "evaluation.checkpoints: step-N must be a step of the run, at most training.steps"
)
SUITE_OBJECTIVE_RULE = "evaluation.suites are for models that write text: objective: causal"

BASELINE_RULE = (
    "a gate that names baseline.… needs evaluation.baseline; unigram.… needs nothing, the metrics "
    "of a model that knows the frequencies of tokens only"
)

BITS_PER_BYTE_RULE = (
    "evaluation.gates: bits_per_byte is measured for objective: causal only, where every token is "
    "predicted; use loss, perplexity or accuracy"
)

CLASSES_PATTERN = rf"\b(?:(?:{_OF_CLASSES})(?:[^\w.]|$)|(?:majority|tfidf)\.)"
"""Found in gates that name what is measured of labels."""

CLASSES_RULE = (
    "evaluation.gates: majority.…, tfidf.…, f1_macro and what else is about labels are measured "
    "for objective: classification only"
)


def check_gate(text: str) -> str:
    """Return the text of a gate.

    Raises:
        ValueError: it is none, or names what is never measured; see `parse_gate`, `check_names`.
    """
    gate = parse_gate(text)
    of_suites = [name for name in gate.names if re.fullmatch(_OF_A_SUITE, name)]
    check_names(gate, [*GATE_METRICS, *of_suites])
    return text


def check_suite_metrics(gates: Sequence[str], suites: Sequence[Suite]) -> None:
    """Refuse gates that name metrics of suites that there are not.

    Raises:
        ValueError: names the gate, the metric, and what exists.
    """
    own = [f"{suite.name}.{name}" for suite in suites for name in suite.list_metrics()]
    known = [*GATE_METRICS, *own, *(f"baseline.{name}" for name in own)]
    for index, text in enumerate(gates):
        try:
            check_names(parse_gate(text), known)
        except ValueError as error:
            raise ValueError(f"gates[{index}]: {error}") from None


def names_any(gates: Sequence[str], part: str) -> bool:
    """Tell whether a metric whose name has `part` in it is named in any of the gates."""
    return any(part in name for gate in gates for name in parse_gate(gate).names)


Gate = Annotated[
    str,
    AfterValidator(check_gate),
    Field(
        min_length=3,
        max_length=MAX_GATE_CHARACTERS,
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(f"self.matches(r'{GATE_PATTERN}')", GATE_RULE),
                cel(f"self.matches(r'{NAMES_PATTERN}')", NAMES_RULE),
            ]
        },
    ),
]


class Baseline(Model):
    """What the model is compared with."""

    run: S3Uri
    """A run of llmtrain that has been evaluated, as its status.provenance.runUri says, in the
    same store: its metrics are baseline.loss and so on in gates."""


class Samples(Model):
    """Texts that the trained model writes, for the report."""

    prompts: list[str] = Field(default=[], max_length=32)
    """Beginnings to continue; absent: starts of held-out documents."""

    max_new_tokens: int = Field(default=120, ge=1, le=4096)
    """Tokens that are written after each prompt."""

    temperature: float = Field(default=0.8, ge=0.0, le=5.0)
    """Randomness of sampling; 0 takes the most probable token."""


class HeldOut(StrEnum):
    """A part of the data that is not trained on."""

    VALIDATION = "validation"
    TEST = "test"


FINAL_CHECKPOINT, BEST_CHECKPOINT, STEP_PREFIX = "final", "best", "step-"

MAX_CHECKPOINTS = 4

CheckpointName = Annotated[
    str, StringConstraints(pattern=r"^(final|best|step-[1-9][0-9]{0,8})$", max_length=14)
]
"""A checkpoint of the run: its last one, that with the lowest held-out loss, or that of a step."""


def read_checkpoint_step(name: str) -> int | None:
    """Return the step that a name of a checkpoint says; None: it says none."""
    return int(name.removeprefix(STEP_PREFIX)) if name.startswith(STEP_PREFIX) else None


class EvaluationSpec(Model):
    """Measuring the model on held-out text, and what it must reach."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(
                    "has(self.baseline) || !self.gates.exists(gate, gate.contains('baseline.'))",
                    BASELINE_RULE,
                    field="gates",
                ),
                cel(
                    "self.gates.all(gate, gate.findAll("
                    r"r'[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)+'"
                    ").all(name, "
                    rf"name.matches(r'^(?:baseline\.[a-z0-9_]+|{_OF_NO_SUITE})$') || "
                    "self.suites.exists(suite, name.startsWith(suite.name + '.') || "
                    "name.startsWith('baseline.' + suite.name + '.'))))",
                    SUITE_RULE,
                    field="gates",
                ),
                cel(
                    "self.suites.all(one, self.suites.exists_one(other, other.name == one.name))",
                    SUITE_NAMES_RULE,
                    field="suites",
                ),
                cel(
                    "self.checkpoints.all(one, self.checkpoints.exists_one(other, other == one))",
                    CHECKPOINTS_RULE,
                    field="checkpoints",
                ),
            ]
        }
    )

    split: HeldOut = HeldOut.VALIDATION
    """What the final evaluation measures on; test needs data.split.testFraction. While training
    it is always validation, so that no choice is made by the test part."""

    every_steps: int = Field(default=200, ge=1, le=100_000_000)
    """Steps between evaluations while training; there is always one after the last step."""

    every_epochs: float | None = Field(default=None, gt=0.0, le=10_000.0)
    """In place of everySteps: how often the training split is read between two evaluations."""

    max_sequences: int = Field(default=256, ge=1, le=10_000_000)
    """Held-out sequences of an evaluation while training; the final one takes all of them."""

    workers: int = Field(default=1, ge=1, le=1000)
    """Workers that share the final evaluation, each with workers.processesPerWorker ranks and the
    whole model in each rank. What comes out is the same for any number."""

    gates: list[Gate] = Field(default=[], max_length=MAX_GATES)
    """What the model must satisfy, as "perplexity <= 40 && bits_per_byte < baseline.bits_per_byte".
    The job ends as failed (GateFailed) where one does not hold; docs/evaluation.md lists the
    metrics. A metric that was not measured or is no number fails its gate."""

    suites: list[Suite] = Field(default=[], max_length=8)
    """Sets of questions that the final evaluation asks, each with metrics of its own."""

    checkpoints: list[CheckpointName] = Field(default=[], max_length=MAX_CHECKPOINTS)
    """Checkpoints of this run that are measured, and asked all suites, beside the exported model:
    final (the last one), best (the lowest loss on held-out text) or step-N, as step-400. Those are
    saved, and kept. Gates are about the exported model alone."""

    baseline: Baseline | None = None
    """What the model is compared with, as baseline.loss and so on in gates."""

    samples: Samples = Samples()
    """What the model writes for the report."""

    @model_validator(mode="after")
    def check_metrics(self) -> Self:
        """Hold the CEL rules of this model in Python too."""
        if len({suite.name for suite in self.suites}) < len(self.suites):
            raise ValueError(SUITE_NAMES_RULE)
        if len(set(self.checkpoints)) < len(self.checkpoints):
            raise ValueError(CHECKPOINTS_RULE)
        check_suite_metrics(self.gates, self.suites)
        if self.baseline is None and names_any(self.gates, "baseline."):
            raise ValueError(BASELINE_RULE)
        return self

    @property
    def checkpoint_steps(self) -> frozenset[int]:
        """The steps that are named in `checkpoints`."""
        steps = map(read_checkpoint_step, self.checkpoints)
        return frozenset(step for step in steps if step is not None)
