"""On which kinds of documents a model is significantly worse than on the others.

Below: `predictions`, scipy. Above: `findings`.

Slices are all documents of one source, language, label, or length (quarters of the documents). A
slice is compared with all documents outside it by Fisher's exact test, one-sided: how probable as
many errors in it would be if it were like the rest. Of many slices some look bad by chance, so the
probabilities are corrected for their number (Holm 1979): the probability that any of the slices
that are said to be worse is not is at most 5 %.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from llmtrain_trainer.dataset.facts import Facts
from llmtrain_trainer.evaluation.classification.predictions import Predictions

LEVEL = 0.05
MIN_DOCUMENTS = 10
"""A smaller slice says nothing."""

NUM_LENGTHS = 4


class SliceKind(StrEnum):
    """What the documents of a slice have in common."""

    SOURCE = "source"
    LANGUAGE = "language"
    LABEL = "label"
    LENGTH = "length"


Kind = tuple[SliceKind, str, NDArray[np.bool_]]
"""What documents have in common, its name, and which ones have it [documents]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Documents that have something in common, and how often the model errs on them."""

    kind: SliceKind
    name: str
    """As a label, or 12 to 30 tokens; of a source its index in the recipe."""

    documents: int
    errors: int
    error_rate: float
    rest_error_rate: float
    """Of the documents outside it."""

    p_value: float
    """Of as many errors or more if it were like the rest, corrected for the number of slices."""

    @property
    def is_worse(self) -> bool:
        """Whether the model is significantly worse on it."""
        return self.p_value <= LEVEL


def compare_slices(predictions: Predictions) -> list[Slice]:
    """Return all slices that are large enough, the clearest first."""
    kinds = list(divide_documents(predictions.facts, predictions.lengths))
    kinds += [
        (SliceKind.LABEL, label, predictions.true == number)
        for number, label in enumerate(predictions.labels)
    ]
    return judge_slices(~predictions.is_right, kinds)


def judge_slices(is_wrong: NDArray[np.bool_], kinds: Sequence[Kind]) -> list[Slice]:
    """Return those of the slices that are large enough, the clearest first.

    Args:
        is_wrong: whether the model errs on a document [documents].
        kinds: the slices.
    """
    chosen = [
        (kind, name, inside)
        for kind, name, inside in kinds
        if MIN_DOCUMENTS <= inside.sum() <= len(is_wrong) - MIN_DOCUMENTS
    ]
    p_values = correct_by_holm([compute_p_value(is_wrong, inside) for _, _, inside in chosen])
    slices = [
        Slice(
            kind=kind,
            name=name,
            documents=int(inside.sum()),
            errors=int(is_wrong[inside].sum()),
            error_rate=float(is_wrong[inside].mean()),
            rest_error_rate=float(is_wrong[~inside].mean()),
            p_value=p_value,
        )
        for (kind, name, inside), p_value in zip(chosen, p_values, strict=True)
    ]
    return sorted(slices, key=lambda item: (item.p_value, -item.error_rate))


def compute_p_value(is_wrong: NDArray[np.bool_], inside: NDArray[np.bool_]) -> float:
    """Return how probable it is that so many errors or more are inside by chance (Fisher)."""
    errors = int(is_wrong[inside].sum())
    return float(hypergeom.sf(errors - 1, len(is_wrong), int(is_wrong.sum()), int(inside.sum())))


def correct_by_holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, by Holm's step-down method."""
    order = np.argsort(p_values, kind="stable")
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order.tolist()):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def divide_documents(facts: Sequence[Facts], lengths: NDArray[np.int64]) -> Iterator[Kind]:
    """Yield documents by source, language and length.

    Args:
        facts: what is stored of each document.
        lengths: tokens of each [documents].
    """
    sources = np.array([item.source for item in facts])
    languages = np.array([item.language for item in facts])
    for source in np.unique(sources):
        yield SliceKind.SOURCE, str(source), sources == source
    for language in np.unique(languages):
        if language:
            yield SliceKind.LANGUAGE, str(language), languages == language
    yield from _divide_by_length(lengths)


def _divide_by_length(lengths: NDArray[np.int64]) -> Iterator[Kind]:
    """Yield quarters of the documents, fewer where many have one length."""
    edges = np.unique(np.quantile(lengths, np.linspace(0.0, 1.0, NUM_LENGTHS + 1)[1:-1]))
    places = np.searchsorted(edges, lengths, side="left")
    for place in np.unique(places):
        inside = places == place
        least, most = lengths[inside].min(), lengths[inside].max()
        name = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        yield SliceKind.LENGTH, f"{name} tokens", inside
