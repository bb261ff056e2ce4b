"""Masked text: some tokens are hidden, and predicted from both sides (BERT).

Below: `draws`, `words`, `documents`. Above: `choosing`.

Devlin et al. 2019 (arXiv:1810.04805, section 3.1): of the tokens that are chosen 80 % become the
mask token, 10 % a random one, 10 % stay. As in RoBERTa (Liu et al. 2019, arXiv:1907.11692) each
epoch chooses anew, and sequences are full ones of running text. Whole words: their words come in
random order, and one that would make too many is passed over (google-research/bert).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from llmtrain_api.objective import MaskingSpec
from llmtrain_trainer.dataset.loading import Provenance
from llmtrain_trainer.objective.batch import NOT_A_TARGET, Batch, Objective
from llmtrain_trainer.objective.documents import count_positions
from llmtrain_trainer.objective.draws import Draws
from llmtrain_trainer.objective.words import WordTable

HIDDEN_SHARE, REPLACED_SHARE = 0.8, 0.1
"""Of the tokens that are chosen."""


class HiddenTokens(Objective):
    """Predicts tokens that are hidden."""

    def __init__(
        self,
        spec: MaskingSpec,
        *,
        seed: int,
        mask: int,
        special: Collection[int],
        vocabulary_size: int,
        words: WordTable | None,
        isolates: bool = False,
    ) -> None:
        """Hide tokens of sequences.

        Args:
            spec: how many, and whether whole words.
            seed: of the run.
            mask: the token that stands for a hidden one.
            special: tokens that are neither chosen nor put in another's place.
            vocabulary_size: tokens of the vocabulary.
            words: tells words, for whole words.
            isolates: whether documents of a sequence do not see each other.
        """
        self._spec = spec
        self._seed = seed
        self._mask = mask
        self._is_special = np.zeros(vocabulary_size, dtype=np.bool_)
        self._is_special[sorted(special)] = True
        self._ordinary = np.flatnonzero(~self._is_special)
        self._isolates = isolates
        self._words = words if spec.whole_words else None

    @property
    def fixed_targets(self) -> int | None:
        """The ends of documents are no targets, and words are of any length."""
        return None

    @property
    def needs_provenance(self) -> bool:
        """Where documents are kept apart."""
        return self._isolates

    def make_batch(
        self,
        sequences: NDArray[np.int64],
        numbers: NDArray[np.int64],
        *,
        is_training: bool,
        provenance: Provenance | None = None,
    ) -> Batch:
        """Make a batch; each sequence loses its last token, which is another one's first."""
        inputs = sequences[:, :-1].copy()
        targets = np.full_like(inputs, NOT_A_TARGET)
        for row, labels, number in zip(inputs, targets, numbers, strict=True):
            draws = Draws(self._seed, int(number), is_training=is_training)
            chosen = self.choose(row, draws)
            labels[chosen] = row[chosen]
            fates = draws.draw_fractions(len(chosen))
            others = self._ordinary[draws.draw_indices(len(chosen), len(self._ordinary))]
            hidden = fates < HIDDEN_SHARE
            replaced = ~hidden & (fates < HIDDEN_SHARE + REPLACED_SHARE)
            row[chosen[hidden]] = self._mask
            row[chosen[replaced]] = others[replaced]
        batch = Batch(
            inputs={"input_ids": torch.from_numpy(inputs)}, targets=torch.from_numpy(targets)
        )
        if not self._isolates:
            return batch
        assert provenance is not None
        own = np.ascontiguousarray(provenance.documents[:, :-1])
        return replace(
            batch,
            inputs={**batch.inputs, "position_ids": torch.from_numpy(count_positions(own))},
            documents=torch.from_numpy(own),
            sees_ahead=True,
        )

    def choose(self, tokens: NDArray[np.int64], draws: Draws) -> NDArray[np.int64]:
        """Return the places of a sequence [t] that are to be predicted, at least one if any can."""
        usable = np.flatnonzero(~self._is_special[tokens])
        wanted = min(max(1, round(self._spec.share * len(tokens))), len(usable))
        if self._words is None:
            return usable[draws.draw_order(len(usable))[:wanted]]
        numbers = self._words.number_words(tokens)[usable]
        _, firsts, lengths = np.unique(numbers, return_index=True, return_counts=True)
        chosen: list[NDArray[np.int64]] = []
        missing = wanted
        for word in draws.draw_order(len(firsts)):
            if lengths[word] <= missing or not chosen:
                chosen.append(usable[firsts[word] : firsts[word] + lengths[word]])
                missing -= lengths[word]
            if missing <= 0:
                break
        return np.concatenate(chosen) if chosen else usable
