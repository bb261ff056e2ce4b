"""What is reported of a classifier: its metrics, each label, what is taken for what, calibration.

Below: `charts`, `error_analysis`. Above: `reporting` fills it in, `report` shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmtrain_trainer.evaluation.classification.calibration import ReliabilityBin
from llmtrain_trainer.evaluation.classification.charts import draw_confusion, draw_reliability
from llmtrain_trainer.evaluation.classification.intervals import Interval
from llmtrain_trainer.evaluation.error_analysis.explaining import Explanation

SHOWN_CONFUSIONS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScore:
    """How well one label is predicted."""

    label: str
    documents: int
    """That have it."""

    predicted: int
    """Documents for which it was predicted."""

    precision: float
    recall: float
    f1: float

    roc_auc: float | None
    """Of this label against all others; None: no document has it, or all have."""

    average_precision: float | None
    """The same; the area below precision over recall, by steps."""

    def dump(self) -> dict[str, Any]:
        """Return JSON-ready camelCase data."""
        return {
            "label": self.label,
            "documents": self.documents,
            "predicted": self.predicted,
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
            "rocAuc": self.roc_auc,
            "averagePrecision": self.average_precision,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassReport:
    """How well labels are predicted."""

    labels: tuple[str, ...]
    metrics: Mapping[str, float | None]
    """By the names of gates, those of what the model is compared with, too."""

    intervals: Mapping[str, Interval]
    """Of the model's metrics, 95 %."""

    scores: Sequence[LabelScore]
    """Of each label, in their order."""

    confusion: NDArray[np.int64]
    """[true, predicted]."""

    calibration: Sequence[ReliabilityBin]

    explanation: Explanation
    """Why it errs."""

    @property
    def confusions(self) -> list[tuple[str, str, int]]:
        """Which label is taken for which other, and how often; the commonest first."""
        return list_confusions(self.labels, self.confusion, SHOWN_CONFUSIONS)

    @property
    def confusion_svg(self) -> str:
        """The same as a picture."""
        return draw_confusion(self.labels, self.confusion)

    @property
    def reliability_svg(self) -> str:
        """Whether the model is as often right as it says."""
        return draw_reliability(self.calibration)

    def dump(self) -> dict[str, Any]:
        """Return JSON-ready camelCase data."""
        return {
            "labels": [score.dump() for score in self.scores],
            "intervals": {name: list(interval) for name, interval in self.intervals.items()},
            "confusion": self.confusion.tolist(),
            "calibration": [asdict(item) for item in self.calibration],
            "errors": self.explanation.dump(),
        }


def list_confusions(
    labels: tuple[str, ...], confusion: NDArray[np.int64], most: int
) -> list[tuple[str, str, int]]:
    """Return which label was taken for which other how often, the commonest first.

    Args:
        labels: in their order.
        confusion: [true, predicted].
        most: how many are returned.
    """
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [
        (labels[true], labels[said], int(wrong[true, said]))
        for true, said in pairs
        if wrong[true, said]
    ]
