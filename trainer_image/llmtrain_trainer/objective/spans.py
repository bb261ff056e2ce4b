"""Corrupted text: spans are cut out, and written down by the decoder (T5).

Below: `draws`; the contract for how many and how long. Above: `choosing`.

Raffel et al. 2020 (arXiv:1910.10683, section 3.1.4), as `random_spans_noise_mask` of their code:
tokens are divided at random into as many spans that stay as spans that are cut out, one after the
other, and a sequence begins with one that stays. Each span that is cut out leaves a token of its
own, which in the targets stands before what was cut out. So all sequences have the same lengths
after it, and there is no padding. Where rows are packed from documents, each document is a text of
its own: they have no sentinels in common, and the network never sees two of them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from llmtrain_api.objective import SpanCorruptionSpec, SpanCounts, count_spans
from llmtrain_trainer.dataset.loading import NO_DOCUMENT, Provenance
from llmtrain_trainer.objective.answers import pair_texts
from llmtrain_trainer.objective.batch import Batch, Objective
from llmtrain_trainer.objective.draws import Draws

MIN_TEXT_TOKENS = 2
"""One that is cut out, and one that stays."""


class CutSpans(Objective):
    """Predicts spans that were cut out."""

    def __init__(
        self,
        spec: SpanCorruptionSpec,
        *,
        seed: int,
        sequence_length: int,
        sentinels: Sequence[int],
        end_of_text: int,
        start: int,
    ) -> None:
        """Cut spans out of sequences.

        Args:
            spec: how many and how long.
            seed: of the run.
            sequence_length: tokens of a sequence before.
            sentinels: tokens that stand for spans, in order.
            end_of_text: ends what is read and what is written.
            start: the token that writing begins with.
        """
        self.counts = count_spans(sequence_length, spec)
        self._spec = spec
        self._seed = seed
        self._sentinels = np.array(sentinels[: self.counts.spans], dtype=np.int64)
        assert len(self._sentinels) == self.counts.spans
        self._end_of_text = end_of_text
        self._start = start

    @property
    def fixed_targets(self) -> int | None:
        """Every sequence writes as much."""
        return self.counts.targets

    @property
    def needs_provenance(self) -> bool:
        """All tokens are alike."""
        return False

    def make_batch(
        self,
        sequences: NDArray[np.int64],
        numbers: NDArray[np.int64],
        *,
        is_training: bool,
        provenance: Provenance | None = None,
    ) -> Batch:
        """Make a batch; each sequence loses its last token, which is another one's first."""
        inputs = np.empty((len(sequences), self.counts.inputs), dtype=np.int64)
        targets = np.empty((len(sequences), self.counts.targets), dtype=np.int64)
        for row, number, read, written in zip(sequences, numbers, inputs, targets, strict=True):
            draws = Draws(self._seed, int(number), is_training=is_training)
            is_cut = self.choose(len(row) - 1, draws)
            read[:-1] = replace_spans(row[:-1], is_cut, self._sentinels)
            written[:-1] = replace_spans(row[:-1], ~is_cut, self._sentinels)
            read[-1] = written[-1] = self._end_of_text
        shifted = np.empty_like(targets)
        shifted[:, 0] = self._start
        shifted[:, 1:] = targets[:, :-1]
        return Batch(
            inputs={
                "input_ids": torch.from_numpy(inputs),
                "decoder_input_ids": torch.from_numpy(shifted),
                "use_cache": False,
            },
            targets=torch.from_numpy(targets),
        )

    def choose(self, length: int, draws: Draws) -> NDArray[np.bool_]:
        """Return which tokens of a sequence are cut out [length]."""
        return choose_cuts(length, self.counts, draws)


class CutSpansOfDocuments(CutSpans):
    """Predicts spans that were cut out of the documents of packed rows, each a text of its own."""

    @property
    def fixed_targets(self) -> int | None:
        """Documents are of any length."""
        return None

    @property
    def needs_provenance(self) -> bool:
        """It tells documents."""
        return True

    def make_batch(
        self,
        sequences: NDArray[np.int64],
        numbers: NDArray[np.int64],
        *,
        is_training: bool,
        provenance: Provenance | None = None,
    ) -> Batch:
        """Make a batch that has a row for each document, or part of one, of each sequence.

        What is cut out of a document depends on its place in its row, and not on the others.
        """
        assert provenance is not None
        read: list[NDArray[np.int64]] = []
        written: list[NDArray[np.int64]] = []
        rows: list[int] = []
        for row, (tokens, documents) in enumerate(
            zip(sequences[:, :-1], provenance.documents[:, :-1], strict=True)
        ):
            for part, text in enumerate(divide_row(tokens, documents)):
                draws = Draws(self._seed, int(numbers[row]), is_training=is_training, part=part)
                is_cut = choose_cuts(len(text), count_spans(len(text), self._spec), draws)
                read.append(self._end(replace_spans(text, is_cut, self._sentinels)))
                written.append(self._end(replace_spans(text, ~is_cut, self._sentinels)))
                rows.append(row)
        if not rows:  # nothing but padding, and single tokens
            nothing = np.empty(0, dtype=np.int64)
            read, written, rows = [self._end(nothing)], [nothing], [0]
        batch = pair_texts(read, written, padding=self._start)
        return replace(batch, rows=torch.tensor(rows))

    def _end(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.append(tokens, self._end_of_text)


def divide_row(tokens: NDArray[np.int64], documents: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the parts of a row [t] that are of one document each, of two tokens or more."""
    bounds = np.flatnonzero(documents[1:] != documents[:-1]) + 1
    parts = zip(np.split(tokens, bounds), np.split(documents, bounds), strict=True)
    return [
        part for part, owner in parts if owner[0] != NO_DOCUMENT and len(part) >= MIN_TEXT_TOKENS
    ]


def choose_cuts(length: int, counts: SpanCounts, draws: Draws) -> NDArray[np.bool_]:
    """Return which tokens of a text of so many are cut out [length]."""
    cut = divide(counts.cut, counts.spans, draws)
    kept = divide(length - counts.cut, counts.spans, draws)
    lengths = np.stack([kept, cut], axis=1).reshape(-1)
    return np.repeat(np.arange(2 * counts.spans) % 2 == 1, lengths)


def divide(count: int, parts: int, draws: Draws) -> NDArray[np.int64]:
    """Return the lengths of `parts` parts of at least one, all divisions being as likely."""
    ends = np.sort(draws.draw_order(count - 1)[: parts - 1]) + 1
    return np.diff(np.concatenate([[0], ends, [count]]))


def replace_spans(
    tokens: NDArray[np.int64], is_replaced: NDArray[np.bool_], sentinels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Put one of `sentinels` in the place of each run of tokens that is replaced."""
    begins = is_replaced.copy()
    begins[1:] &= ~is_replaced[:-1]
    result = tokens.copy()
    result[begins] = sentinels[: begins.sum()]
    return result[begins | ~is_replaced]
