"""Models of texts from the store that help to judge answers: an encoder, a model of inference.

Below: `store`. Above: `inputs` looks at them before anything is trained, `similarity` and
`entailment` load them. Only safetensors and config.json are read, and no code but the library's
is run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from llmtrain_api.run import StorageConfig
from llmtrain_trainer.failures import ConfigurationError
from llmtrain_trainer.store import Store, open_store

SETTINGS = "config.json"
TENSORS = ".safetensors"
CLASSIFIERS = "ForSequenceClassification"
"""What the classes that have a head for labels are called at their end."""


class Relation(StrEnum):
    """What a source says of a sentence."""

    ENTAILED = "entailed"
    CONTRADICTED = "contradicted"
    NOT_SAID = "not said"


_WORDS = {"entail": Relation.ENTAILED, "contradict": Relation.CONTRADICTED}
"""How the names of labels begin that mean something; all others mean that it is not said."""


def check_encoder(uri: str, storage: StorageConfig, *, field: str) -> None:
    """Refuse a directory without a model of texts.

    Raises:
        ConfigurationError: there is none; `field` is what named it.
    """
    _open_directory(uri, storage, field=field, reason="EncoderInvalid")


def check_entailment_model(uri: str, storage: StorageConfig, *, field: str) -> dict[int, Relation]:
    """Return what each label of a model of inference means, by config.json alone.

    Raises:
        ConfigurationError: there is none, it has no head for labels, or the names of its labels do
            not say which one is entailment; `field` is what named it.
    """
    reason = "EntailmentModelInvalid"
    store = _open_directory(uri, storage, field=field, reason=reason)
    settings = _read_settings(store, field=field, reason=reason)
    names = settings.get("architectures") or []
    if not any(str(name).endswith(CLASSIFIERS) for name in names):
        raise ConfigurationError(
            f"{field}: {uri} is a {', '.join(map(str, names)) or 'model without architectures'}, "
            f"and no …{CLASSIFIERS}, so that it has no labels to choose from",
            reason=reason,
            next_step="give a model that was fine-tuned for natural language inference",
        )
    labels = settings.get("id2label")
    relations = find_relations(labels if isinstance(labels, Mapping) else {})
    if list(relations.values()).count(Relation.ENTAILED) != 1:
        shown = ", ".join(map(str, labels.values())) if isinstance(labels, Mapping) else "unnamed"
        raise ConfigurationError(
            f"{field}: of the labels of {uri} exactly one must begin with “entail”, as entailment "
            f"does; they are: {shown}",
            reason=reason,
            next_step=f"name them in id2label of {SETTINGS}: entailment, contradiction, neutral",
        )
    return relations


def find_relations(labels: Mapping[Any, Any]) -> dict[int, Relation]:
    """Return what labels mean by how their names begin, whatever their case.

    Args:
        labels: id2label of a model's configuration, as {"0": "ENTAILMENT"}.
    """
    return {
        int(key): next(
            (it for word, it in _WORDS.items() if str(name).casefold().startswith(word)),
            Relation.NOT_SAID,
        )
        for key, name in labels.items()
    }


def download_model(uri: str, storage: StorageConfig, folder: Path) -> None:
    """Download the directory of a model into a folder, without what lies below it."""
    store = open_store(uri.rstrip("/"), storage)
    for key in _list_files(store):
        store.download(key, folder / key)


def find_context(model: Any, tokenizer: Any) -> int:
    """Return how many tokens a model can read, as its configuration and its tokenizer say."""
    positions = getattr(model.config, "max_position_embeddings", tokenizer.model_max_length)
    return int(min(positions, tokenizer.model_max_length))


def _list_files(store: Store) -> list[str]:
    return [item.key for item in store.list_objects() if "/" not in item.key]


def _open_directory(uri: str, storage: StorageConfig, *, field: str, reason: str) -> Store:
    store = open_store(uri.rstrip("/"), storage)
    keys = _list_files(store)
    if SETTINGS not in keys or not any(key.endswith(TENSORS) for key in keys):
        raise ConfigurationError(
            f"{field}: {uri} has no {SETTINGS} beside a file of tensors ({TENSORS}); "
            f"it holds: {', '.join(keys[:10]) or 'nothing'}",
            reason=reason,
            next_step="upload the directory of a Hugging Face model with its tokenizer there",
        )
    return store


def _read_settings(store: Store, *, field: str, reason: str) -> Mapping[str, Any]:
    try:
        settings = json.loads(store.read_bytes(SETTINGS))
    except ValueError as error:
        settings = error
    if not isinstance(settings, Mapping):
        raise ConfigurationError(
            f"{field}: {store.uri}/{SETTINGS} is no JSON object ({settings})",
            reason=reason,
            next_step="upload what save_pretrained writes",
        )
    return settings
