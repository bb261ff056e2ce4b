"""How alike texts are by the states of a model that reads them.

Below: a model and its tokenizer; `text_models` for one from the store. Above: `suites`.

Two measures of one reading. The cosine compares the means of all states. BERTScore (Zhang et al.
2020, arXiv:1904.09675) matches each token with the nearest one of the other text: precision is the
mean over the answer's tokens of their cosine with the nearest of the reference, recall the same of
the reference's, F1 their harmonic mean.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from llmtrain_api.run import StorageConfig
from llmtrain_trainer.evaluation.batching import group_by_length
from llmtrain_trainer.evaluation.text_models import check_encoder, download_model, find_context

QUESTIONS_AT_ONCE = 64
"""Answers that are read together with their references; states of all would fill the memory."""

FRAME_TOKENS = ("cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id")
"""Tokens around a text: others may match them, and they themselves do not count."""


class StatesMissingError(Exception):
    """The model does not say what its states are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """How alike an answer and a reference are; -1.0 to 1.0, and 0.0 where one has no token."""

    cosine: float
    """Of the means of their states."""

    precision: float
    recall: float
    f1: float
    """BERTScore."""


@dataclass(frozen=True, slots=True, eq=False)
class States:
    """What a model makes of a text: the last state of each token."""

    vectors: torch.Tensor
    """float64 [tokens, width]."""

    weights: torch.Tensor
    """float64 [tokens]: 1.0 of a token of the text, 0.0 of one around it."""


class TextReader:
    """Reads texts by a model and returns its last states."""

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        context: int,
        batch_size: int,
    ) -> None:
        """Read by a model on its own device, at most `context` tokens of each text."""
        self._model = model
        self._tokenizer = tokenizer
        self._context = context
        self._batch_size = batch_size
        self._frame = {getattr(tokenizer, name, None) for name in FRAME_TOKENS}

    def read(self, texts: Sequence[str]) -> list[States | None]:
        """Return the states of each text; None of a text without tokens.

        Raises:
            StatesMissingError: the model has no states to show, as an LSTM of ours.
        """
        encoded = [list(self._tokenizer.encode(text))[: self._context] for text in texts]
        present = [index for index, ids in enumerate(encoded) if ids]
        states: list[States | None] = [None] * len(texts)
        lengths = [len(encoded[index]) for index in present]
        for batch in group_by_length(lengths, self._batch_size, only_equal=False):
            indices = [present[place] for place in batch]
            for index, vectors in zip(
                indices, self._compute([encoded[index] for index in indices]), strict=True
            ):
                counts = [float(token not in self._frame) for token in encoded[index]]
                states[index] = States(vectors, torch.tensor(counts, dtype=torch.float64))
        return states

    def _compute(self, rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        width = max(map(len, rows))
        inputs = torch.zeros((len(rows), width), dtype=torch.int64)
        mask = torch.zeros_like(inputs)
        for row, ids in enumerate(rows):
            inputs[row, : len(ids)] = torch.tensor(ids)
            mask[row, : len(ids)] = 1
        device = self._model.device
        with torch.no_grad():
            output = self._model(
                input_ids=inputs.to(device),
                attention_mask=mask.to(device),
                output_hidden_states=True,
            )
        if getattr(output, "hidden_states", None) is None:
            raise StatesMissingError
        last = output.hidden_states[-1].double().cpu()
        return [last[row, : len(ids)] for row, ids in enumerate(rows)]


def score_likenesses(
    reader: TextReader, answers: Sequence[str], references: Sequence[Sequence[str]]
) -> list[Likeness]:
    """Return how alike each answer is to its references: the best cosine, the best F1.

    Precision and recall are those of the reference with the best F1.

    Raises:
        StatesMissingError: see `TextReader.read`.
    """
    scored = []
    for start in range(0, len(answers), QUESTIONS_AT_ONCE):
        texts = answers[start : start + QUESTIONS_AT_ONCE]
        others = references[start : start + QUESTIONS_AT_ONCE]
        states = iter(reader.read([*texts, *(text for own in others for text in own)]))
        of_answers = [next(states) for _ in texts]
        for answer, own in zip(of_answers, others, strict=True):
            each = [compare_states(answer, next(states)) for _ in own]
            best = max(each, key=lambda likeness: likeness.f1)
            cosine = max(likeness.cosine for likeness in each)
            scored.append(
                Likeness(cosine=cosine, precision=best.precision, recall=best.recall, f1=best.f1)
            )
    return scored


def compare_states(answer: States | None, reference: States | None) -> Likeness:
    """Return how alike two texts are; 0.0 where one of them has no token of its own."""
    if answer is None or reference is None:
        return Likeness(cosine=0.0, precision=0.0, recall=0.0, f1=0.0)
    means = torch.stack([answer.vectors.mean(dim=0), reference.vectors.mean(dim=0)])
    first, second = torch.nn.functional.normalize(means, dim=1)
    precision = recall = f1 = 0.0
    if answer.weights.any() and reference.weights.any():
        cosines = (
            torch.nn.functional.normalize(answer.vectors, dim=1)
            @ torch.nn.functional.normalize(reference.vectors, dim=1).T
        )
        precision = float(cosines.amax(dim=1) @ answer.weights / answer.weights.sum())
        recall = float(cosines.amax(dim=0) @ reference.weights / reference.weights.sum())
        both = precision + recall
        f1 = 2.0 * precision * recall / both if both > 0.0 else 0.0
    return Likeness(cosine=float(first @ second), precision=precision, recall=recall, f1=f1)


def load_encoder(
    uri: str, storage: StorageConfig, *, field: str, device: Any, batch_size: int
) -> TextReader:
    """Load a model of texts from the store, from safetensors and by no code but the library's.

    Raises:
        ConfigurationError: where there is none that can be used.
    """
    check_encoder(uri, storage, field=field)
    with tempfile.TemporaryDirectory(prefix="llmtrain-encoder-") as name:
        download_model(uri, storage, Path(name))
        model = transformers.AutoModel.from_pretrained(
            name, trust_remote_code=False, use_safetensors=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    context = find_context(model, tokenizer)
    return TextReader(model.to(device).eval(), tokenizer, context=context, batch_size=batch_size)
