"""How fast training could be at most: what a token costs, and what the GPUs can do.

Below: the contract's `devices`. Above: `training.run` asks once, `speedometer` compares.

Model FLOPs utilization (Chowdhery et al. 2022, PaLM, arXiv:2204.02311, appendix B) is the measured
tokens per second, as a share of those at which the products of the forward and the backward pass
alone would take all that the GPUs can do, by their data sheet, in bfloat16 without sparsity. What
is computed beside products, or twice, counts as lost.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from llmtrain_api.devices import find_device
from llmtrain_trainer.model.lstm import MODEL_TYPE as LSTM
from llmtrain_trainer.precision import Arithmetic

PRODUCTS = (nn.Linear, Conv1D, nn.LSTM)
"""Layers that are products of matrices; looking up embeddings is none."""

TRAINED_FLOPS = 6
"""For each weight and token: two in the forward pass, and two each for the gradients of the
weight and of what it was multiplied with."""

FROZEN_FLOPS = 4
"""Of those, a weight that stays as it is has no gradient of its own."""


def find_peak_speed(
    model: PreTrainedModel,
    *,
    sequence_length: int,
    world_size: int,
    device: torch.device,
    arithmetic: Arithmetic,
) -> float | None:
    """Return the tokens per second at which all of the GPUs' products would be used.

    None where that is not known: on CPUs, on GPUs that `devices` does not list, where products are
    not in bfloat16, and for models whose encoder and decoder read other tokens each.
    """
    if device.type != "cuda" or not arithmetic.autocast or model.config.is_encoder_decoder:
        return None
    known = find_device(torch.cuda.get_device_name(device))
    if known is None:
        return None
    return world_size * known.bf16_flops / count_token_flops(model, sequence_length)


def count_token_flops(model: PreTrainedModel, sequence_length: int) -> float:
    """Return the operations of a forward and a backward pass for each token of a sequence.

    For each weight of a product 6, or 4 where it is frozen, and 12 · layers · width · length for
    attention, of which the causal half is not taken off.
    """
    weights: dict[int, nn.Parameter] = {}  # by identity: tied ones are one product each
    is_lstm = model.config.model_type == LSTM
    for module in model.modules():
        # An LSTM's embedding is its output layer, too, without a module of its own.
        if isinstance(module, PRODUCTS) or (is_lstm and isinstance(module, nn.Embedding)):
            own = module.parameters(recurse=False)
            weights.update((id(weight), weight) for weight in own if weight.ndim > 1)
    products = sum(
        weight.numel() * (TRAINED_FLOPS if weight.requires_grad else FROZEN_FLOPS)
        for weight in weights.values()
    )
    configuration = model.config
    if is_lstm:
        return float(products)
    attention = 12 * configuration.num_hidden_layers * configuration.hidden_size * sequence_length
    return float(products + attention)
