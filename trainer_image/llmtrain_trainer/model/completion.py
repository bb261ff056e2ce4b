"""A run's model with what it has learned in it, plain and whole.

Below: `blueprint`, `adapters`. Above: `export` saves such a model, `evaluation.checkpoints` makes
one of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn
from transformers.modeling_utils import PreTrainedModel

from llmtrain_api.run import RunConfig
from llmtrain_trainer.dataset.loading import Dataset
from llmtrain_trainer.model.adapters import merge_adapters, save_adapter
from llmtrain_trainer.model.blueprint import Blueprint


def complete_model(
    blueprint: Blueprint,
    dataset: Dataset,
    fill: Callable[[nn.Module], None],
    *,
    adapter: Path | None = None,
) -> PreTrainedModel:
    """Build the model of a run, and let `fill` put trained values into its parameters.

    Adapters are merged into the weights.

    Args:
        blueprint: the run's model.
        dataset: that it is trained on.
        fill: is given a model whose trained parameters are those that require gradients, by the
            names that checkpoints have.
        adapter: a folder, made here, that the adapters alone are saved to, where there are any.

    Raises:
        ConfigurationError: the model at model.from is another one than before.
        StoreError: its weights cannot be had.
    """
    config = blueprint.run
    if config.training.lora is None:
        is_partly_frozen = blueprint.frozen_digest is not None
        model = blueprint.begin() if is_partly_frozen else blueprint.build()
        fill(model)
        model.requires_grad_(True)  # all of it is counted
    else:
        adapters = blueprint.adapt()
        fill(adapters.model)
        if adapter is not None:
            save_adapter(adapters, adapter)
        model = merge_adapters(adapters)
    _end_at_turns(model, config, dataset)
    return model


def _end_at_turns(model: PreTrainedModel, config: RunConfig, dataset: Dataset) -> None:
    """Have what is generated end where an assistant's turn ends, if it was taught turns."""
    turn_end = dataset.special.turn_end
    if config.learns_turns and turn_end is not None and model.generation_config:
        model.generation_config.eos_token_id = [turn_end, dataset.end_of_text]
