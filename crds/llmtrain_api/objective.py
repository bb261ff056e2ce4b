"""`spec.training.objective`: what the model is to predict, and the counts that follow from it.

Below: `network`, for which network can do which. Above: `training`, which embeds these; the trainer
makes batches by them, and the operator's forecast counts by them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pydantic import Field

from llmtrain_api.base import Model
from llmtrain_api.network import Architecture, ModelSpec

MAX_SPANS = 100
"""The tokenizer has so many tokens that stand for a span, as T5's."""


class Objective(StrEnum):
    """What is predicted."""

    CAUSAL = "causal"
    MASKED = "masked"
    SPAN_CORRUPTION = "span-corruption"
    CLASSIFICATION = "classification"
    SEQUENCE_TO_SEQUENCE = "sequence-to-sequence"


OBJECTIVES = {
    Architecture.GPT2: Objective.CAUSAL,
    Architecture.LLAMA: Objective.CAUSAL,
    Architecture.LSTM: Objective.CAUSAL,
    Architecture.BERT: Objective.MASKED,
    Architecture.T5: Objective.SPAN_CORRUPTION,
}
"""What each network is trained on."""

CLASSIFYING = frozenset({Architecture.GPT2, Architecture.LLAMA, Architecture.BERT})
"""Networks that may be trained to classify, too."""


def find_objective(model: ModelSpec, asked: Objective | None) -> Objective:
    """Return what a model is trained on: as asked for, or what its architecture is for.

    Where `from` brings the architecture nothing is known of it yet, and causal is taken.
    """
    return asked or OBJECTIVES[model.architecture]


def goes_with(architecture: Architecture, objective: Objective) -> bool:
    """Return whether a network can be trained on an objective."""
    if objective is Objective.CLASSIFICATION:
        return architecture in CLASSIFYING
    if objective is Objective.SEQUENCE_TO_SEQUENCE:
        return architecture is Architecture.T5
    return objective is OBJECTIVES[architecture]


OBJECTIVE_RULE = (
    "training.objective must be causal for gpt2, llama and lstm, masked for bert, and "
    "span-corruption for t5; or classification for gpt2, llama and bert, and "
    "sequence-to-sequence for t5"
)

SPANS_RULE = (
    "training.sequenceLength × spanCorruption.share / spanCorruption.meanSpanTokens must be at "
    f"most {MAX_SPANS} (spans of a sequence)"
)


class ClassWeights(StrEnum):
    """How much classes count."""

    NONE = "none"
    BALANCED = "balanced"


class LossOn(StrEnum):
    """What is learned of a conversation."""

    ASSISTANT = "assistant"
    ALL = "all"


class MaskingSpec(Model):
    """Predicting tokens that are hidden (Devlin et al. 2019, arXiv:1810.04805).

    Of those chosen, 80 % become the mask token, 10 % another token, and 10 % stay.
    """

    share: float = Field(default=0.15, gt=0.0, le=0.9)
    """Share of a sequence's tokens that are to be predicted."""

    whole_words: bool = False
    """true: all tokens of a word are chosen together."""


class SpanCorruptionSpec(Model):
    """Writing the spans that were cut out (Raffel et al. 2020, arXiv:1910.10683, section 3.1.4)."""

    share: float = Field(default=0.15, gt=0.0, le=0.9)
    """Share of a sequence's tokens that are cut out."""

    mean_span_tokens: float = Field(default=3.0, ge=1.0, le=100.0)
    """Mean length of what is cut out at one place, in tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanCounts:
    """The counts of a corrupted sequence; all sequences have the same."""

    cut: int
    """Tokens that are cut out."""

    spans: int

    inputs: int
    """Tokens that the encoder reads: what is left, a token for each span, and the end."""

    targets: int
    """Tokens that the decoder writes: for each span its token and what was cut out; the end."""


def count_spans(sequence_length: int, spec: SpanCorruptionSpec) -> SpanCounts:
    """Return the counts of a sequence of `sequence_length` tokens."""
    cut = min(max(round(sequence_length * spec.share), 1), sequence_length - 1)
    spans = min(max(round(cut / spec.mean_span_tokens), 1), cut, sequence_length - cut)
    return SpanCounts(
        cut=cut,
        spans=spans,
        inputs=sequence_length - cut + spans + 1,
        targets=cut + spans + 1,
    )
