"""The shape of a model that a job goes on from, by its config.json: enough to count by.

Below: the contract. Above: `llmtrain plan --model-config`. What differs from the networks that
llmtrain builds itself (an inner width of its own, an output layer that is not the embedding) is not
looked at, so that counts are near and not exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmtrain_api.network import Architecture, ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What a family calls its numbers in config.json."""

    architecture: Architecture
    layers: str = "num_hidden_layers"
    heads: str | None = "num_attention_heads"
    width: str = "hidden_size"


FAMILIES = {
    "gpt2": Names(architecture=Architecture.GPT2, layers="n_layer", heads="n_head", width="n_embd"),
    "llama": Names(architecture=Architecture.LLAMA),
    "mistral": Names(architecture=Architecture.LLAMA),
    "qwen2": Names(architecture=Architecture.LLAMA),
    "qwen3": Names(architecture=Architecture.LLAMA),
    "bert": Names(architecture=Architecture.BERT),
    "t5": Names(
        architecture=Architecture.T5, layers="num_layers", heads="num_heads", width="d_model"
    ),
    "llmtrain_lstm": Names(architecture=Architecture.LSTM, heads=None),
}


def read_shape(settings: Mapping[str, Any]) -> tuple[ModelSpec, int] | None:
    """Return the network nearest to a config.json, and its vocabulary; None: no known family.

    Raises:
        KeyError: it lacks a number.
    """
    names = FAMILIES.get(settings.get("model_type", ""))
    if names is None:
        return None
    heads = None if names.heads is None else settings[names.heads]
    groups = settings.get("num_key_value_heads")
    is_llama = names.architecture is Architecture.LLAMA
    spec = ModelSpec(
        architecture=names.architecture,
        layers=settings[names.layers],
        heads=heads,
        key_value_heads=groups if is_llama and groups != heads else None,
        hidden_size=settings[names.width],
    )
    return spec, int(settings["vocab_size"])
