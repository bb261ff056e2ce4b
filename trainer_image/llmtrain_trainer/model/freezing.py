"""Layers and embeddings of a pretrained model that stay as they are.

Below: torch, `transformers`. Above: `blueprint`, each time that it builds the model of such a run.

What stays is not saved in checkpoints: a run that is resumed reads it from the pretrained weights
again, by their digest.
"""

from __future__ import annotations

import hashlib
import json

from torch import nn
from transformers.modeling_utils import PreTrainedModel

from llmtrain_api.lora import FreezeSpec
from llmtrain_trainer.failures import ConfigurationError


def freeze_parts(model: PreTrainedModel, spec: FreezeSpec, *, num_new_tokens: int) -> None:
    """Have parts of a model need no gradients, in place.

    Args:
        model: with its pretrained weights.
        spec: which parts.
        num_new_tokens: rows of the embeddings that the pretrained model lacked.

    Raises:
        ConfigurationError: there are not so many layers, new tokens could not be learned, or
            nothing would be.
    """
    stacks = find_stacks(model)
    fewest = min((len(stack) for stack in stacks), default=0)
    if spec.layers > fewest:
        raise _refuse(
            f"training.freeze.layers is {spec.layers}, and the model at model.from has {fewest}",
            f"give training.freeze.layers: {fewest} or less",
        )
    if spec.embeddings and num_new_tokens:
        raise _refuse(
            f"training.freeze.embeddings, and the data has {num_new_tokens} tokens that the model "
            "at model.from does not know",
            "leave freeze.embeddings out, or train training.lora, which learns new tokens",
        )
    for stack in stacks:
        for layer in stack[: spec.layers]:
            layer.requires_grad_(False)
    if spec.embeddings:
        within = {id(module) for stack in stacks for layer in stack for module in layer.modules()}
        for module in model.modules():
            if isinstance(module, nn.Embedding) and id(module) not in within:
                module.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise _refuse("training.freeze leaves nothing to be trained", "freeze less")


def find_stacks(model: PreTrainedModel) -> list[list[nn.Module]]:
    """Return the layers of a model in the order in which text passes them; of T5 two stacks.

    `transformers` calls them those modules that must not be split over devices.
    """
    names = set(model._no_split_modules or [])
    return [
        list(module)
        for module in model.modules()
        if isinstance(module, nn.ModuleList)
        and len(module)
        and all(type(layer).__name__ in names for layer in module)
    ]


def digest_frozen(weights: str, spec: FreezeSpec) -> str:
    """Return the digest of what stays of weights of a digest; another part is another digest."""
    return hashlib.sha256(json.dumps([weights, spec.dump()]).encode()).hexdigest()


def _refuse(message: str, next_step: str) -> ConfigurationError:
    return ConfigurationError(message, reason="FreezeInvalid", next_step=next_step)
