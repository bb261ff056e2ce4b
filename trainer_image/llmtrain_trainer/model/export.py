"""The trained model as a directory that `transformers` loads.

Below: `completion`, `network`, `store`. Above: `train`, after its last step, on rank 0; `evaluate`
reads it.

The weights are put into a fresh plain model, so that what is saved does not depend on how
training had wrapped or sharded it. `manifest.json` is written last: an export without it was
interrupted.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import transformers
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from llmtrain_api.objective import Objective
from llmtrain_api.run import RunConfig
from llmtrain_trainer.checkpoint.manifest import MANIFEST
from llmtrain_trainer.dataset.loading import Dataset
from llmtrain_trainer.failures import StoreError
from llmtrain_trainer.model.adapters import ADAPTER
from llmtrain_trainer.model.blueprint import Blueprint, describe_shape
from llmtrain_trainer.model.completion import complete_model
from llmtrain_trainer.model.lstm import MODEL_TYPE
from llmtrain_trainer.model.network import AUTO_CLASSES, count_parameters
from llmtrain_trainer.rendering import render_template
from llmtrain_trainer.store import ObjectExistsError, Store
from llmtrain_trainer.store.described import describe_file

EXPORT = "export/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """How an exported model is loaded and used."""

    auto_class: str
    """The class of `transformers` that loads it."""

    pipeline: str
    """The task, as model hubs call it."""


PIPELINES = {
    Objective.CAUSAL: "text-generation",
    Objective.MASKED: "fill-mask",
    Objective.SPAN_CORRUPTION: "text2text-generation",
    Objective.CLASSIFICATION: "text-classification",
    Objective.SEQUENCE_TO_SEQUENCE: "text2text-generation",
}
USES = {
    objective: Use(auto_class=AUTO_CLASSES[objective].__name__, pipeline=pipeline)
    for objective, pipeline in PIPELINES.items()
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFacts:
    """What the model card says of the training."""

    step: int
    train_loss: float
    validation_loss: float


def locate_export(config: RunConfig) -> str:
    """Return the URI of the run's exported model."""
    return f"{config.run_uri}/{EXPORT.rstrip('/')}"


def export_model(
    blueprint: Blueprint,
    store: Store,
    dataset: Dataset,
    parameters: Mapping[str, torch.Tensor],
    facts: ExportFacts,
) -> None:
    """Write weights, configuration, tokenizer and model card under `export/` of the run.

    Adapters are merged into the weights, and lie in `adapter/` alone, too.

    Args:
        blueprint: the run's model.
        store: rooted at the run.
        dataset: gives vocabulary and tokenizer.
        parameters: every trained parameter whole, by the names of the plain model; fp32.
        facts: for the model card.
    """
    if store.find_object(EXPORT + MANIFEST) is not None:
        return
    config = blueprint.run
    with tempfile.TemporaryDirectory(prefix="llmtrain-export-") as name:
        folder = Path(name)
        model = complete_model(
            blueprint,
            dataset,
            partial(_fill, parameters=parameters),
            adapter=folder / ADAPTER,
        )
        transformers.utils.logging.disable_progress_bar()
        model.save_pretrained(folder)
        dataset.save_tokenizer(folder)
        card = render_template(
            "model_card.md.j2",
            config=config,
            facts=facts,
            shape=describe_shape(model.config),
            use=USES[config.objective],
            parameters=count_parameters(model),
            is_lstm=model.config.model_type == MODEL_TYPE,
            dataset=dataset,
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
        objects = []
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            item = describe_file(path, path.relative_to(folder).as_posix())
            store.upload(EXPORT + item.key, path)
            objects.append(item.dump())
    manifest = {"formatVersion": 1, "step": facts.step, "objects": objects}
    try:
        store.create_bytes(EXPORT + MANIFEST, json.dumps(manifest, indent=1).encode())
    except ObjectExistsError:
        return  # a retried request had arrived after all


@torch.no_grad()
def _fill(model: nn.Module, *, parameters: Mapping[str, torch.Tensor]) -> None:
    """Put what was trained into the model."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(parameters[name])


def read_exported_step(store: Store) -> int:
    """Return the step of the weights that were exported; the export must be finished."""
    return int(json.loads(store.read_bytes(EXPORT + MANIFEST))["step"])


def load_export(config: RunConfig, folder: Path) -> PreTrainedModel:
    """Load the downloaded model of a run, from safetensors and by no code but our own."""
    auto_class = AUTO_CLASSES[config.objective]
    model = auto_class.from_pretrained(folder, trust_remote_code=False, use_safetensors=True)
    assert isinstance(model, PreTrainedModel)
    return model


def download_export(store: Store, folder: Path) -> None:
    """Download the run's exported model into `folder`.

    Raises:
        StoreError: where the export is missing or damaged.
    """
    if store.find_object(EXPORT + MANIFEST) is None:
        raise StoreError(
            "the run has no finished export: export/manifest.json is missing",
            reason="ExportMissing",
            next_step="evaluate runs after train has succeeded; look at the train stage",
        )
    for item in json.loads(store.read_bytes(EXPORT + MANIFEST))["objects"]:
        if "/" in item["key"]:
            continue  # the adapter alone, which is in the merged weights, too
        path = folder / Path(item["key"]).name
        store.download(EXPORT + item["key"], path)
        if describe_file(path, item["key"]).dump() != item:
            raise StoreError(
                f"export/{item['key']} is not what its manifest says",
                reason="ExportDamaged",
                next_step="delete export/ of the run in the store and run the job again",
            )
