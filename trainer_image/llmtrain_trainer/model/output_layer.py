"""The last layer of a network, and what is computed in the place of its logits.

Below: `chunked_loss`, `lstm`. Above: `network`, for losses in training and evaluations.

The replacement works within the network's own forward pass, where DDP and FSDP have the weights
ready and wait for gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from llmtrain_trainer.model.lstm import LstmForCausalLM

ENDING_IN_LOGITS = {"gpt2", "llama", "bert", "mistral", "qwen2", "qwen3", "t5", "llmtrain_lstm"}
"""Types of models whose output is what the output layer gives, and nothing is done to it: others
scale or cap it. A test holds each of them to it."""

Compute = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""Makes something of the states [n, t, width], the weight [vocabulary, width] and the bias."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputLayer:
    """What turns states into logits."""

    module: nn.Module
    method: str
    """Which method of the module does."""

    holder: nn.Module
    """Has the weight, and maybe the bias."""

    @property
    def weight(self) -> torch.Tensor:
        """Its matrix [vocabulary, width], as it is now: within a forward pass FSDP has it whole."""
        weight = self.holder.weight
        assert isinstance(weight, torch.Tensor)
        return weight

    @contextmanager
    def replaced(self, compute: Compute) -> Iterator[None]:
        """Have the network give what `compute` makes, as its logits."""

        def compute_here(states: torch.Tensor) -> torch.Tensor:
            return compute(states, self.weight, getattr(self.holder, "bias", None))

        setattr(self.module, self.method, compute_here)
        try:
            yield
        finally:
            delattr(self.module, self.method)


def find_output_layer(model: nn.Module) -> OutputLayer | None:
    """Return the output layer of a network that ends in one as plain as can be; else None."""
    if isinstance(model, LstmForCausalLM):
        return OutputLayer(module=model, method="compute_logits", holder=model.embeddings)
    if not isinstance(model, PreTrainedModel) or model.config.model_type not in ENDING_IN_LOGITS:
        return None
    head = model.get_output_embeddings()
    # Adapters make another type of it; a network that classifies has none.
    if not isinstance(head, nn.Linear) or type(head).forward is not nn.Linear.forward:
        return None
    return OutputLayer(module=head, method="forward", holder=head)
