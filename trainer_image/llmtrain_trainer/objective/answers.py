"""Texts and what answers them: a translation, a summary (sequence to sequence).

Below: `batch`. Above: `choosing`, and `spans` for documents of any length.

A pair is stored as a user's turn and the assistant's, of which the roles tell the words. The
encoder reads the one, the decoder writes the other, each up to its end of text (Raffel et al.
2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from llmtrain_trainer.dataset.loading import Provenance
from llmtrain_trainer.objective.batch import NOT_A_TARGET, Batch, Objective
from llmtrain_trainer.tokenizer.marks import Role


class AnswerOfText(Objective):
    """Predicts an answer from a text."""

    reads_documents: ClassVar[bool] = True
    cuts_documents: ClassVar[bool] = False

    def __init__(self, *, sequence_length: int, end_of_text: int, padding: int) -> None:
        """Cut texts and answers to `sequence_length` each, with their end; tokens are given."""
        self._length = sequence_length
        self._end_of_text = end_of_text
        self._padding = padding

    @property
    def fixed_targets(self) -> int | None:
        """Answers are of any length."""
        return None

    @property
    def needs_provenance(self) -> bool:
        """Roles tell text from answer."""
        return True

    def make_batch(
        self,
        sequences: NDArray[np.int64],
        numbers: NDArray[np.int64],
        *,
        is_training: bool,
        provenance: Provenance | None = None,
    ) -> Batch:
        """Make a batch of documents [n, t], each a row; nothing is drawn.

        Rows are as long as the longest of them. The decoder begins with padding, as T5 does.
        """
        del numbers, is_training
        assert provenance is not None
        roles = provenance.roles
        read = self._take(sequences, roles == Role.USER)
        written = self._take(sequences, roles == Role.ASSISTANT)
        return pair_texts(read, written, padding=self._padding)

    def _take(
        self, sequences: NDArray[np.int64], is_taken: NDArray[np.bool_]
    ) -> list[NDArray[np.int64]]:
        """Return the words of one side; in place of the end of its turn it has the end of text."""
        return [
            np.append(row[taken][:-1][: self._length - 1], self._end_of_text)
            for row, taken in zip(sequences, is_taken, strict=True)
        ]


def pair_texts(
    read: Sequence[NDArray[np.int64]], written: Sequence[NDArray[np.int64]], *, padding: int
) -> Batch:
    """Make a batch of what an encoder reads, and what the decoder is to write of each.

    Texts are of any length. The decoder begins with padding, as T5 does.
    """
    targets = _fill(written, NOT_A_TARGET)
    shifted = np.full_like(targets, padding)
    shifted[:, 1:] = _fill(written, padding)[:, :-1]
    ids = _fill(read, padding)
    lengths = np.array([[len(text)] for text in read])
    is_read = np.arange(ids.shape[1]) < lengths
    return Batch(
        inputs={
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(is_read.astype(np.int64)),
            "decoder_input_ids": torch.from_numpy(shifted),
            "use_cache": False,
        },
        targets=torch.from_numpy(targets),
    )


def _fill(texts: Sequence[NDArray[np.int64]], filler: int) -> NDArray[np.int64]:
    """Return texts as rows as long as the longest."""
    rows = np.full((len(texts), max(map(len, texts))), filler, dtype=np.int64)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = text
    return rows
