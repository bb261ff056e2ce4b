"""`spec.evaluation.suites`: sets of questions with their answers, and the metrics of each kind.

Below: `base`, `sources`. Above: `evaluation`, which knows the names that gates may use.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from llmtrain_api.base import Model, cel
from llmtrain_api.sources import S3Uri

RESERVED_NAMES = ("baseline", "majority", "tfidf", "unigram")
"""Prefixes of metrics that are of no suite."""

RESERVED_RULE = f"a suite cannot be named {', '.join(RESERVED_NAMES[:-1])} or {RESERVED_NAMES[-1]}"

SuiteUri = Annotated[
    str,
    StringConstraints(
        pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[^\s*?\[]*[^\s*?\[/]$", max_length=1024
    ),
]
"""One object."""


LEAST_SAMPLES = 2
"""Answers that can agree."""


class SuiteKind(StrEnum):
    """What the model is asked to do."""

    GENERATION = "generation"
    MULTIPLE_CHOICE = "multiple-choice"
    COUNTERFACTUAL = "counterfactual"
    CANARY = "canary"
    HARNESS = "harness"


SUITE_METRICS = {
    SuiteKind.GENERATION: (
        "exact_match",
        "token_f1",
        "rouge_l",
        "chrf",
        "bleu",
        "similarity",
        "bertscore_precision",
        "bertscore_recall",
        "bertscore_f1",
        "unsupported_rate",
        "coverage",
        "entailed_share",
        "contradicted_share",
        "self_consistency",
        "personal_data_rate",
        "toxic_rate",
        "memorized_rate",
        "longest_overlap",
        "tokens_per_second",
        "latency_seconds",
    ),
    SuiteKind.MULTIPLE_CHOICE: ("accuracy", "accuracy_per_byte", "chance"),
    SuiteKind.COUNTERFACTUAL: ("likelihood_gap", "largest_gap", "first_rate"),
    SuiteKind.CANARY: ("exposure", "largest_exposure", "extracted_rate"),
    SuiteKind.HARNESS: (
        "acc",
        "acc_norm",
        "acc_bytes",
        "acc_mutual_info",
        "bits_per_byte",
        "bleu",
        "brier_score",
        "byte_perplexity",
        "chrf",
        "exact_match",
        "f1",
        "mcc",
        "perplexity",
        "ter",
        "word_perplexity",
    ),
}
"""What is measured of each kind, as <suite>.exact_match in gates."""


HEADLINES = {
    SuiteKind.GENERATION: ("exact_match", "token_f1", "chrf"),
    SuiteKind.MULTIPLE_CHOICE: ("accuracy", "chance"),
    SuiteKind.COUNTERFACTUAL: ("likelihood_gap", "first_rate"),
    SuiteKind.CANARY: ("exposure", "extracted_rate"),
    SuiteKind.HARNESS: ("acc", "acc_norm", "exact_match"),
}
"""What of these is in the status of a job, which is too small for all."""

ENTAILMENT_METRICS = ("entailed_share", "contradicted_share")
"""Of a suite that names a model of inference."""


def check_suite_name(name: str) -> str:
    """Return the name of a suite.

    Raises:
        ValueError: it means something else in gates.
    """
    if name in RESERVED_NAMES:
        raise ValueError(RESERVED_RULE)
    return name


SuiteName = Annotated[
    str,
    AfterValidator(check_suite_name),
    Field(
        pattern=r"^[a-z][a-z0-9_]*$",
        max_length=32,
        json_schema_extra={
            "x-kubernetes-validations": [
                cel(f"!(self in {list(RESERVED_NAMES)})", RESERVED_RULE),
            ]
        },
    ),
]


class Suite(Model):
    """Examples that the exported model is asked, and what it says is compared with."""

    name: SuiteName
    """What its metrics begin with, as qa.exact_match in gates."""

    kind: SuiteKind = SuiteKind.GENERATION
    """generation: the model continues each prompt, and what it writes is compared with the
    references; multiple-choice: it chooses the most probable of the given answers; counterfactual:
    how much more probable a continuation is after one term than after another; canary: how much
    more probable a secret is than others of its form; harness: a task of lm-evaluation-harness,
    whose metrics it has (acc, acc_norm, exact_match, …); the trainer's image must have the extra
    harness."""

    uri: SuiteUri
    """JSON lines in the same store. generation: prompt, references (a list of texts) or reference,
    and, where there is one, source (the text that the answer is to be true to);
    multiple-choice: prompt, choices (texts), answer (the number of the right one, from 0);
    counterfactual: prompt with {} where each of terms is put, continuation; canary: prompt, secret.
    An id is allowed, too. harness: the YAML file of a task, with its data as JSON lines in the same
    folder. Anything else is refused, by file and line, before training."""

    max_examples: int = Field(default=1000, ge=1, le=1_000_000)
    """At most so many are asked, evenly over the file."""

    max_new_tokens: int = Field(default=64, ge=1, le=4096)
    """For generation: tokens that are written after each prompt, the most probable ones."""

    stop: list[str] = Field(default=[], max_length=8)
    """For generation: what is written ends before the first of these texts, as "\\n"."""

    consistency_samples: int = Field(default=0, ge=0, le=16)
    """For generation: how many answers are drawn by chance for each prompt, too, to see whether
    they agree (self_consistency); less than 2: none."""

    search_training: bool = False
    """For generation: whether answers are looked for, word for word, in the training part, which is
    read once for that (memorized_rate, longest_overlap)."""

    lexicon: SuiteUri | None = None
    """For generation: a text file of the same store with words and phrases, one a line, that
    answers should not have (toxic_rate)."""

    candidates: int = Field(default=1023, ge=15, le=1_000_000)
    """For canary: how many other secrets each is held against; exposure is at most the binary
    logarithm of one more."""

    encoder: S3Uri | None = None
    """For generation: a Hugging Face directory of the same store with a model of texts, by whose
    states similarity and bertscore_f1 are measured. Absent: the states of the trained model
    itself."""

    entailment_model: S3Uri | None = None
    """For generation: a Hugging Face directory of the same store with a model of natural language
    inference (…ForSequenceClassification, by safetensors). One of its labels begins with entail,
    and one may begin with contradict. It says of each sentence of an answer whether the source of
    the question entails it (entailed_share) or contradicts it (contradicted_share)."""

    def list_metrics(self) -> list[str]:
        """Return what is measured, without the name of the suite; some needs a source."""
        off = {
            *(() if self.draws_samples else ("self_consistency",)),
            *(() if self.search_training else ("memorized_rate", "longest_overlap")),
            *(() if self.lexicon else ("toxic_rate",)),
            *(() if self.entailment_model else ENTAILMENT_METRICS),
        }
        return [name for name in SUITE_METRICS[self.kind] if name not in off]

    @property
    def draws_samples(self) -> bool:
        """Whether several answers are drawn for each prompt."""
        return self.consistency_samples >= LEAST_SAMPLES
