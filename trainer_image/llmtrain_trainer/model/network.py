"""The network that is trained, and its loss.

Below: the model classes of `transformers`, `configurations`, and `objective` for what a batch is.
Above: `train` builds it once, `export` again on one rank to hold the gathered weights; `losses`
has the same losses without all logits.

Only configurations are built here, so nothing is fetched: they become random weights from a seed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
)
from transformers.modeling_utils import PreTrainedModel

from llmtrain_api.network import ModelSpec
from llmtrain_api.objective import OBJECTIVES, Objective
from llmtrain_trainer.model.configurations import configure_network
from llmtrain_trainer.model.lstm import MODEL_TYPE as LSTM
from llmtrain_trainer.objective.batch import NOT_A_TARGET, Batch

AUTO_CLASSES: dict[Objective, Any] = {
    Objective.CAUSAL: AutoModelForCausalLM,
    Objective.MASKED: AutoModelForMaskedLM,
    Objective.SPAN_CORRUPTION: AutoModelForSeq2SeqLM,
    Objective.CLASSIFICATION: AutoModelForSequenceClassification,
    Objective.SEQUENCE_TO_SEQUENCE: AutoModelForSeq2SeqLM,
}
"""What builds and loads the model of an objective, by its configuration."""


TOKEN_DIMENSIONS = 3
"""Of logits that are about tokens."""

ISOLATING = {"gpt2", "llama", "bert", "mistral", "qwen2", "qwen3", LSTM}
"""Types of models in which documents of a row can be kept apart: they take a mask for each
sequence, or go by positions that begin anew, as an LSTM. A test holds each of them to it."""


def build_model(
    spec: ModelSpec,
    *,
    vocabulary_size: int,
    sequence_length: int,
    end_of_text: int,
    seed: int,
    padding: int | None = None,
) -> PreTrainedModel:
    """Build the network of `spec` for what its architecture is for; see `configure_network`."""
    configuration = configure_network(
        spec,
        vocabulary_size=vocabulary_size,
        sequence_length=sequence_length,
        end_of_text=end_of_text,
        padding=padding,
    )
    return create_model(configuration, OBJECTIVES[spec.architecture], seed=seed)


def create_model(
    configuration: PreTrainedConfig, objective: Objective, *, seed: int
) -> PreTrainedModel:
    """Build a network with random fp32 weights that depend on `seed` alone."""
    torch.manual_seed(seed)
    model = AUTO_CLASSES[objective].from_config(configuration, dtype=torch.float32)
    assert isinstance(model, PreTrainedModel)
    return model


def count_parameters(model: nn.Module) -> int:
    """Count the trainable parameters, tied ones once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def compute_logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Return what the model says of each target of a batch [n, t, vocabulary or classes]."""
    logits = call_model(model, batch)
    return logits if logits.ndim == TOKEN_DIMENSIONS else logits[:, None]  # one of each sequence


def call_model(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the model's logits of a batch, as it has them, or what stands in their place."""
    inputs = dict(batch.inputs)
    if batch.documents is not None:
        inputs["attention_mask"] = mask_documents(batch.documents, sees_ahead=batch.sees_ahead)
    logits: torch.Tensor = model(**inputs).logits
    return logits


def mask_documents(documents: torch.Tensor, *, sees_ahead: bool) -> torch.Tensor:
    """Return which tokens see which: those of their own document [n, t] only.

    Returns:
        bool [n, 1, t, t]: for each token those that it sees, as torch's attention takes it.
    """
    mask = documents[:, None, :, None] == documents[:, None, None, :]
    return mask if sees_ahead else mask.tril()


def compute_token_losses(
    model: nn.Module, batch: Batch, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Return the losses of a batch's targets, in nats; where there is none, 0.

    Args:
        model: maps the batch's inputs to logits [n, t, vocabulary].
        batch: inputs and targets.
        label_smoothing: share of a target's probability that is spread over the vocabulary.

    Returns:
        float32 [n, t].
    """
    return compute_losses(compute_logits(model, batch), batch, label_smoothing)


def compute_losses(
    logits: torch.Tensor, batch: Batch, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Return the losses of a batch's targets from the model's logits."""
    if batch.multi_label:
        losses = _compute_decision_losses(logits[:, 0].float(), batch.targets, label_smoothing)
        return losses if batch.weights is None else losses * batch.weights
    losses = functional.cross_entropy(
        logits.flatten(0, 1).float(),
        batch.targets.flatten(),
        reduction="none",
        ignore_index=NOT_A_TARGET,
        label_smoothing=label_smoothing,
    ).view(batch.targets.shape)
    return losses if batch.weights is None else losses * batch.weights


def judge_labels(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what a classifier says of a batch of documents.

    Returns:
        The loss of each target, float32 [n, t], in nats; what it holds for the most probable,
        int64 [n, t]; the probability of each class, float64 [n, classes]. Where a document has one
        class, t is 1, and probabilities have the sum 1; else t is the number of classes.
    """
    logits = compute_logits(model, batch)
    losses, said = compute_losses(logits, batch), logits[:, 0].double()
    if batch.multi_label:
        return losses, (said > 0).long(), said.sigmoid()
    return losses, logits.argmax(dim=2), said.softmax(dim=1)


def _compute_decision_losses(
    logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float
) -> torch.Tensor:
    """Return the binary cross-entropy of each decision [n, classes]; of two answers."""
    wanted = targets * (1.0 - label_smoothing) + label_smoothing / 2.0
    return functional.binary_cross_entropy_with_logits(
        logits, wanted.to(logits.dtype), reduction="none"
    )
