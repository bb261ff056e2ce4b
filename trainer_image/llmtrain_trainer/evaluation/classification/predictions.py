"""What a classifier says of documents: one table that all its metrics and explanations are made of.

Below: `measure` fills it in, `dataset` knows what is stored of the documents. Above:
`metrics` and the other modules about labels; `reporting` writes it beside the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from llmtrain_trainer.dataset.facts import Facts

PREDICTIONS = "evaluation/predictions.parquet"
"""Key below a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Documents of one part of the data, and how probable a model holds each label for each."""

    labels: tuple[str, ...]
    """In the order of the model's outputs."""

    true: NDArray[np.int64]
    """The number of each document's label, as it is in the data [documents]."""

    probabilities: NDArray[np.float64]
    """Rows have the sum 1 [documents, labels]."""

    facts: Sequence[Facts]
    """What is stored of each document."""

    lengths: NDArray[np.int64]
    """Tokens of each document [documents]."""

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable label of each document [documents]."""
        best: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return best

    @property
    def confidence(self) -> NDArray[np.float64]:
        """How probable the most probable label is [documents]."""
        best: NDArray[np.float64] = self.probabilities.max(axis=1)
        return best

    @property
    def is_right(self) -> NDArray[np.bool_]:
        """Whether the most probable label is that of the data [documents]."""
        is_right: NDArray[np.bool_] = self.predicted == self.true
        return is_right

    @property
    def confusion(self) -> NDArray[np.int64]:
        """How often each label was taken for each [true, predicted]."""
        size = len(self.labels)
        cells = np.bincount(self.true * size + self.predicted, minlength=size * size)
        return cells.reshape(size, size)

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.true)


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write the table as Parquet: a row for each document, which is named by its digest alone.

    Columns: document, label, predicted, source, language, tokens, and p, the probability of each
    label in the order that the metadata `labels` has them, one in each line.
    """
    names = np.array(predictions.labels)
    table = pa.table(
        {
            "document": [facts.digest for facts in predictions.facts],
            "label": names[predictions.true],
            "predicted": names[predictions.predicted],
            "source": pa.array([facts.source for facts in predictions.facts], pa.int32()),
            "language": [facts.language for facts in predictions.facts],
            "tokens": predictions.lengths,
            "p": pa.array(list(predictions.probabilities.astype(np.float32))),
        }
    )
    labels = "\n".join(predictions.labels)
    pq.write_table(table.replace_schema_metadata({"labels": labels}), path, compression="zstd")
