"""Activations that are computed again in the backward pass instead of being kept (Chen et al. 2016,
Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174).

Below: `transformers`, whose blocks know how, and torch's checkpoint function, which restores the
random numbers of dropout and the arithmetic of the forward pass: gradients are the same, bit for
bit. Above: `training.opening` and `training.trial`, before the model is spread.
"""

from __future__ import annotations

from transformers.modeling_utils import PreTrainedModel

from llmtrain_api.training import ActivationCheckpointing
from llmtrain_trainer.failures import ConfigurationError

EVERY_NTH_BLOCK = {ActivationCheckpointing.SELECTIVE: 2, ActivationCheckpointing.FULL: 1}


def recompute_activations(model: PreTrainedModel, choice: ActivationCheckpointing) -> None:
    """Have the blocks of a model keep their inputs alone; of `selective` every other block.

    Raises:
        ConfigurationError: the model has no blocks that can.
    """
    if choice is ActivationCheckpointing.NONE:
        return
    if not model.supports_gradient_checkpointing:
        raise ConfigurationError(
            f"training.activationCheckpointing ({choice}) is not for models of type "
            f"{model.config.model_type}",
            reason="ActivationCheckpointingUnsupported",
            next_step="give training.activationCheckpointing: none, and lower "
            "training.microBatchSize where memory is short",
        )
    model.activation_checkpointing_enable(
        activation_checkpointing_kwargs={"use_reentrant": False},
        every_n_layers=EVERY_NTH_BLOCK[choice],
    )
    # Only the reentrant kind needs it; frozen embeddings would be asked for gradients.
    model.disable_input_require_grads()
