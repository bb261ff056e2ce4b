"""All analyses of a classifier's errors, put together.

Below: the modules beside it. Above: `evaluate` writes the findings, `report` shows the explanation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic.alias_generators import to_camel

from llmtrain_api.findings import Finding, Part
from llmtrain_trainer.evaluation.classification.labelled_texts import LabelledTexts
from llmtrain_trainer.evaluation.classification.predictions import Predictions
from llmtrain_trainer.evaluation.classification.word_model import predict_out_of_fold
from llmtrain_trainer.evaluation.error_analysis.compiling import (
    compile_gaps,
    compile_label_errors,
    compile_mismatch,
    compile_slices,
)
from llmtrain_trainer.evaluation.error_analysis.examples import (
    ErrorGroup,
    WrongExample,
    choose_examples,
    group_errors,
    shorten,
)
from llmtrain_trainer.evaluation.error_analysis.gaps import PartError, compare_in_order, order_parts
from llmtrain_trainer.evaluation.error_analysis.label_errors import LabelError, find_label_errors
from llmtrain_trainer.evaluation.error_analysis.mismatch import Mismatch, compare_parts
from llmtrain_trainer.evaluation.error_analysis.slices import Slice, compare_slices

NUM_FOLDS = 5
SHOWN_LABEL_ERRORS = 10
SHOWN_SLICES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownLabelError:
    """A document whose label is probably wrong, as the report shows it."""

    part: str
    text: str
    label: str
    suggested: str
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a classifier errs."""

    part: Part
    """The held-out part that was looked at."""

    findings: Sequence[Finding]
    parts: Sequence[PartError]
    slices: Sequence[Slice]
    label_errors: Sequence[ShownLabelError]
    """The surest ones of each part."""

    mismatch: Mismatch | None
    groups: Sequence[ErrorGroup]
    confident: Sequence[WrongExample]
    """Wrong predictions of which the model is surest."""

    hardest: Sequence[WrongExample]
    """Documents whose label is the least probable for the model."""

    def dump(self) -> dict[str, Any]:
        """Return JSON-ready camelCase data; the findings have a file of their own."""
        return {
            "parts": [
                {**_dump(part), "errorRate": part.error_rate, "interval": list(part.interval)}
                for part in self.parts
            ],
            "slices": [_dump(item) for item in self.slices],
            "mismatch": None if self.mismatch is None else _dump(self.mismatch),
            "labelErrors": [_dump(item) for item in self.label_errors],
            "groups": [_dump(group) for group in self.groups],
            "confident": [_dump(example) for example in self.confident],
            "hardest": [_dump(example) for example in self.hardest],
        }


def explain_errors(
    predictions: Predictions,
    held_out: LabelledTexts,
    learned: LabelledTexts,
    errors: Mapping[Part, tuple[int, int]],
    *,
    part: Part,
    num_sources: int,
    seed: int,
) -> Explanation:
    """Return why a classifier errs on held-out documents.

    Args:
        predictions: of the classifier for them.
        held_out: their texts.
        learned: texts of training documents.
        errors: for each part that was looked at, how many documents, and on how many it errs.
        part: that the held-out documents are.
        num_sources: of the recipe.
        seed: of all that is drawn.
    """
    by_words = predict_out_of_fold(learned, num_folds=NUM_FOLDS, seed=seed)
    found: list[tuple[Part, LabelledTexts, Predictions, list[LabelError]]] = []
    if by_words is not None:
        found.append((Part.TRAIN, learned, by_words, find_label_errors(by_words)))
    found.append((part, held_out, predictions, find_label_errors(predictions)))
    mismatch = compare_parts(learned, held_out, seed=seed)
    slices = compare_slices(predictions)
    parts = order_parts(errors)
    confident, hardest = choose_examples(predictions, held_out.texts)
    return Explanation(
        part=part,
        findings=[
            *(
                finding
                for where, _, said, label_errors in found
                for finding in compile_label_errors(where, said, label_errors)
            ),
            *compile_mismatch(part, mismatch),
            *compile_slices(part, slices, num_sources),
            *compile_gaps(parts, compare_in_order(parts)),
        ],
        parts=parts,
        slices=slices[:SHOWN_SLICES],
        label_errors=[
            ShownLabelError(
                part=where.value,
                text=shorten(texts.texts[error.document]),
                label=texts.labels[error.given],
                suggested=texts.labels[error.suggested],
                confidence=error.confidence,
            )
            for where, texts, _, label_errors in found
            for error in label_errors[:SHOWN_LABEL_ERRORS]
        ],
        mismatch=mismatch,
        groups=group_errors(predictions, held_out.texts, seed=seed),
        confident=confident,
        hardest=hardest,
    )


def _dump(record: Any) -> dict[str, Any]:
    return asdict(record, dict_factory=lambda items: {to_camel(name): v for name, v in items})
