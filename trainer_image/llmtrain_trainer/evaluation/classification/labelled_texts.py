"""Labelled documents of a dataset as texts again, for what reads words.

Below: `dataset`, the tokenizer of the export. Above: `word_model` learns from them; the analyses
of errors look at them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from llmtrain_api.recipe import PersonalData
from llmtrain_trainer.dataset.facts import Facts
from llmtrain_trainer.dataset.loading import Split
from llmtrain_trainer.preparation.privacy import replace_personal_data

MAX_TOKENS = 2048
"""Of each document; most classifiers read fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledTexts:
    """Documents of one part of the data."""

    texts: Sequence[str]
    """As the tokenizer gives them back, at most the first `MAX_TOKENS` tokens of each, with
    placeholders for personal data, so that nothing above sees a value of it."""

    labels: tuple[str, ...]
    """All that there are, sorted."""

    true: NDArray[np.int64]
    """The number of each document's label [documents]."""

    facts: Sequence[Facts]
    """What is stored of each document."""

    lengths: NDArray[np.int64]
    """Tokens of each document, of all of it [documents]."""

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.texts)


def read_labelled_texts(
    split: Split,
    labels: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    indices: NDArray[np.int64],
) -> LabelledTexts:
    """Return the documents of a split at `indices`.

    Args:
        split: of a dataset whose documents have labels.
        labels: of the dataset, sorted.
        tokenizer: that its documents were encoded by.
        indices: of documents.
    """
    stored = split.read_facts()
    facts = [stored[index] for index in indices]
    lengths = [len(split.read_document(int(index))) for index in indices]
    return LabelledTexts(
        texts=read_texts(split, tokenizer, indices),
        labels=tuple(labels),
        true=np.searchsorted(list(labels), [item.label for item in facts]),
        facts=facts,
        lengths=np.array(lengths, dtype=np.int64),
    )


def read_texts(
    split: Split, tokenizer: PreTrainedTokenizerBase, indices: NDArray[np.int64]
) -> list[str]:
    """Return the texts of the documents at `indices`, as `LabelledTexts` has them."""
    documents = [split.read_document(int(index))[:MAX_TOKENS] for index in indices]
    texts = tokenizer.batch_decode([d.tolist() for d in documents], skip_special_tokens=True)
    return [replace_personal_data(str(text), list(PersonalData), Counter()) for text in texts]
