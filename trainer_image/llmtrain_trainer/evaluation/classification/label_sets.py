"""How well the labels of documents are predicted that have any number of them each.

Below: scikit-learn, `metrics`, `calibration`. Above: `set_reporting`, for the model and for what it
is compared with.

A label is predicted where the model holds it for more probable than not: each decision is right
half the time or more if the probabilities are (no threshold is tuned, so none is overfitted).
Averages are over labels, as scikit-learn has them for such data: micro counts decisions of all
labels together. `accuracy` is that of documents whose labels are all right and complete (subset
accuracy).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support

from llmtrain_api.evaluation import AVERAGES
from llmtrain_trainer.dataset.facts import Facts
from llmtrain_trainer.evaluation.classification.calibration import (
    ReliabilityBin,
    compute_calibration_error,
    measure_calibration,
)
from llmtrain_trainer.evaluation.classification.intervals import (
    LEVEL,
    NUM_DRAWS,
    Interval,
    compute_wilson_interval,
)
from llmtrain_trainer.evaluation.classification.metrics import rank_documents
from llmtrain_trainer.evaluation.classification.record import LabelScore

THRESHOLD = 0.5
"""A label that is more probable than this is predicted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSets:
    """Documents of one part of the data, and how probable a model holds each label for each."""

    labels: tuple[str, ...]
    """In the order of the model's outputs."""

    true: NDArray[np.bool_]
    """Whether a document has a label, as it is in the data [documents, labels]."""

    probabilities: NDArray[np.float64]
    """[documents, labels]; each is for itself."""

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """Which labels are said [documents, labels]."""
        said: NDArray[np.bool_] = self.probabilities > THRESHOLD
        return said

    @property
    def calibration(self) -> list[ReliabilityBin]:
        """How often labels are there that the model holds for so probable, over all decisions."""
        return measure_calibration(self.probabilities.reshape(-1), self.true.reshape(-1))

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.true)


def compute_set_metrics(sets: LabelSets) -> dict[str, float | None]:
    """Return what gates may name of labels; None: it cannot be told of these documents.

    A label that is never predicted has the precision 0. ROC AUC and average precision are means
    over the labels that some documents have and others have not.
    """
    true, predicted = sets.true, sets.predicted
    metrics: dict[str, float | None] = {"accuracy": float((true == predicted).all(axis=1).mean())}
    for average in AVERAGES:
        precision, recall, f1, _ = precision_recall_fscore_support(
            _as_table(true), _as_table(predicted), average=average, zero_division=0.0
        )
        metrics |= {
            f"precision_{average}": float(precision),
            f"recall_{average}": float(recall),
            f"f1_{average}": float(f1),
        }
    ranked = [rank_documents(true[:, i], sets.probabilities[:, i]) for i in range(true.shape[1])]
    known = np.array([pair for pair in ranked if pair is not None])
    metrics["roc_auc"] = float(known[:, 0].mean()) if len(known) else None
    metrics["average_precision"] = float(known[:, 1].mean()) if len(known) else None
    metrics["ece"] = compute_calibration_error(sets.calibration)
    return metrics


def score_set_labels(sets: LabelSets) -> list[LabelScore]:
    """Return how well each label is predicted, in the order of the labels."""
    scores = []
    for number, label in enumerate(sets.labels):
        true, predicted = sets.true[:, number], sets.predicted[:, number]
        hits, occurs, said = int((true & predicted).sum()), int(true.sum()), int(predicted.sum())
        ranked = rank_documents(true, sets.probabilities[:, number])
        scores.append(
            LabelScore(
                label=label,
                documents=occurs,
                predicted=said,
                precision=hits / max(said, 1),
                recall=hits / max(occurs, 1),
                f1=2.0 * hits / max(occurs + said, 1),
                roc_auc=None if ranked is None else ranked[0],
                average_precision=None if ranked is None else ranked[1],
            )
        )
    return scores


def estimate_set_intervals(sets: LabelSets, *, seed: int) -> dict[str, Interval]:
    """Return the 95 % interval of accuracy and of averages of F1.

    Documents are drawn anew with replacement (the bootstrap, Efron 1979; see `intervals`).

    Args:
        sets: of the model.
        seed: of what is drawn.
    """
    true, predicted = sets.true, sets.predicted
    right = int((true == predicted).all(axis=1).sum())
    draws = np.random.default_rng(seed).multinomial(
        len(sets), np.full(len(sets), 1.0 / len(sets)), size=NUM_DRAWS
    )
    hits = draws @ (true & predicted).astype(np.int64)
    sums = draws @ (true.astype(np.int64) + predicted)  # [draws, labels]
    occurs = draws @ true.astype(np.int64)
    f1 = 2.0 * hits / np.maximum(sums, 1)
    drawn = {
        "f1_macro": f1.mean(axis=1),
        "f1_micro": 2.0 * hits.sum(axis=1) / np.maximum(sums.sum(axis=1), 1),
        "f1_weighted": (f1 * occurs).sum(axis=1) / np.maximum(occurs.sum(axis=1), 1),
    }
    edges = [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0]
    intervals = {"accuracy": compute_wilson_interval(right, len(sets))}
    for name, values in drawn.items():
        low, high = np.quantile(values, edges)
        intervals[name] = (float(low), float(high))
    return intervals


def write_label_sets(sets: LabelSets, facts: Sequence[Facts], path: Path) -> None:
    """Write the table as Parquet: a row for each document, which is named by its digest alone.

    Columns: document, labels, predicted, source, language, and p, the probability of each label in
    the order that the metadata `labels` has them, one in each line.
    """
    names = np.array(sets.labels)
    table = pa.table(
        {
            "document": [item.digest for item in facts],
            "labels": [names[row].tolist() for row in sets.true],
            "predicted": [names[row].tolist() for row in sets.predicted],
            "source": pa.array([item.source for item in facts], pa.int32()),
            "language": [item.language for item in facts],
            "p": pa.array(list(sets.probabilities.astype(np.float32))),
        }
    )
    labels = "\n".join(sets.labels)
    pq.write_table(table.replace_schema_metadata({"labels": labels}), path, compression="zstd")


def _as_table(marks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return marks [documents, labels] such that a single label is no other kind of data."""
    return marks.astype(np.int64) if marks.shape[1] > 1 else marks[:, 0].astype(np.int64)
