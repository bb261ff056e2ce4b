"""How alike texts are by the states of a model that reads them.

Below: a model and its tokenizer; `inputs` for one from the store. Above: `suites`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from llmtrain_api.run import StorageConfig
from llmtrain_trainer.evaluation.batching import group_by_length
from llmtrain_trainer.evaluation.inputs import download_encoder


class StatesMissingError(Exception):
    """The model does not say what its states are."""


class Embedder:
    """Makes one vector of a text: the mean of its last states, of length one."""

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

    def embed(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the vectors of texts [n, width]; zeros for a text without tokens.

        Raises:
            StatesMissingError: the model has no states to show, as an LSTM of ours.
        """
        encoded = [list(self._tokenizer.encode(text))[: self._context] for text in texts]
        present = [index for index, ids in enumerate(encoded) if ids]
        vectors: dict[int, NDArray[np.float64]] = {}
        lengths = [len(encoded[index]) for index in present]
        for batch in group_by_length(lengths, self._batch_size, only_equal=False):
            indices = [present[place] for place in batch]
            pooled = self._pool([encoded[index] for index in indices])
            vectors.update(zip(indices, pooled, strict=True))
        width = len(next(iter(vectors.values()))) if vectors else 1
        rows = [vectors.get(index, np.zeros(width)) for index in range(len(texts))]
        return np.stack(rows)

    def _pool(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        width = max(map(len, rows))
        inputs = torch.zeros((len(rows), width), dtype=torch.int64)
        mask = torch.zeros_like(inputs)
        for row, ids in enumerate(rows):
            inputs[row, : len(ids)] = torch.tensor(ids)
            mask[row, : len(ids)] = 1
        device = self._model.device
        mask = mask.to(device)
        with torch.no_grad():
            output = self._model(
                input_ids=inputs.to(device), attention_mask=mask, output_hidden_states=True
            )
        if getattr(output, "hidden_states", None) is None:
            raise StatesMissingError
        states, weights = output.hidden_states[-1].double(), mask.double().unsqueeze(2)
        pooled = (states * weights).sum(dim=1) / weights.sum(dim=1)
        unit: NDArray[np.float64] = torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()
        return unit


def score_similarities(
    embedder: Embedder, answers: Sequence[str], references: Sequence[Sequence[str]]
) -> list[float]:
    """Return the cosine of each answer with the nearest of its references.

    Raises:
        StatesMissingError: see `Embedder.embed`.
    """
    flat = [text for own in references for text in own]
    vectors = embedder.embed([*answers, *flat])
    ends = np.cumsum([len(own) for own in references])
    of_references = vectors[len(answers) :]
    return [
        float((of_references[end - len(own) : end] @ vectors[index]).max())
        for index, (own, end) in enumerate(zip(references, ends, strict=True))
    ]


def load_encoder(
    uri: str, storage: StorageConfig, *, field: str, device: Any, batch_size: int
) -> Embedder:
    """Load a model of texts from the store, from safetensors and by no code but the library's.

    Raises:
        ConfigurationError: where there is none that can be used.
    """
    with tempfile.TemporaryDirectory(prefix="llmtrain-encoder-") as name:
        download_encoder(uri, storage, Path(name), field=field)
        model = transformers.AutoModel.from_pretrained(
            name, trust_remote_code=False, use_safetensors=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    context = getattr(model.config, "max_position_embeddings", tokenizer.model_max_length)
    return Embedder(model.to(device).eval(), tokenizer, context=context, batch_size=batch_size)
