"""Low-rank adapters: a frozen model, and what is trained beside it.

Below: `peft`, which takes more than a second to import and so is imported where it is needed.
Above: `blueprint` adds adapters to the model of a run, `export` merges them.

Names of trained parameters follow from the model and the spec alone, so that checkpoints hold
nothing else, and a resumed run finds its own.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import nn
from transformers.modeling_utils import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from llmtrain_api.lora import LoraSpec
from llmtrain_trainer.failures import ConfigurationError

if TYPE_CHECKING:
    from peft import LoraModel

ADAPTER = "adapter"
ALPHA_PER_RANK = 2
"""Where alpha is not given."""

OUTPUT_LAYERS = ("score", "classifier", "classification_head")
"""What `transformers` calls the layer that decides on classes."""

KEY_PREFIX = "base_model.model."
"""Of names in an adapter's file, as `peft` writes them."""


def add_adapters(
    model: PreTrainedModel,
    spec: LoraSpec,
    *,
    seed: int,
    new_tokens: range,
    new_layers: Sequence[str] = (),
    source: str = "",
) -> LoraModel:
    """Freeze a model, and add adapters to it, in place, which change nothing yet.

    Args:
        model: with its pretrained weights: DoRA begins at their lengths.
        spec: which adapters.
        seed: of their random halves.
        new_tokens: rows of the embeddings that the pretrained model lacked; they are trained.
        new_layers: names of modules that began at random, as the layer that decides on classes;
            they are trained whole.
        source: where the pretrained model lies, for whoever loads the adapter alone.

    Raises:
        ConfigurationError: the model has none of the layers.
    """
    from peft import LoraConfig, LoraModel

    torch.manual_seed(seed)
    configuration = LoraConfig(
        base_model_name_or_path=source,
        r=spec.rank,
        lora_alpha=ALPHA_PER_RANK * spec.rank if spec.alpha is None else spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=spec.targets or "all-linear",
        use_dora=spec.dora,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        trainable_token_indices=_find_rows(model, new_tokens),
        modules_to_save=list(new_layers) or None,
        task_type="SEQ_CLS" if _is_classifier(model) else None,
    )
    try:
        return LoraModel(model, configuration, "default")
    except ValueError as error:
        raise ConfigurationError(
            f"training.lora.targets: {error}",
            reason="LoraTargetsInvalid",
            next_step="name linear layers of the model, as [q_proj, v_proj], or leave targets out",
        ) from error


def find_new_layers(model: PreTrainedModel, lacking: Collection[str]) -> list[str]:
    """Return the modules that are trained whole beside adapters: those that began at random.

    A classifier's output layer is one even if it was loaded: its classes may be other ones.

    Args:
        model: that adapters are to be added to.
        lacking: names of the parameters that the pretrained weights did not have.
    """
    heads = {name for name in OUTPUT_LAYERS if _is_classifier(model) and hasattr(model, name)}
    modules = {name.rpartition(".")[0] for name in lacking} | heads
    return sorted(m for m in modules if not any(m.startswith(f"{other}.") for other in modules))


def save_adapter(adapters: LoraModel, folder: Path) -> None:
    """Write adapters alone to `folder`, which is made here, as `peft` loads them."""
    from peft import get_peft_model_state_dict

    folder.mkdir()
    state = get_peft_model_state_dict(adapters.model)
    tensors = {f"{KEY_PREFIX}{name}": tensor.contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    configuration = adapters.peft_config["default"].to_dict() | {"inference_mode": True}
    text = json.dumps(configuration, indent=1, sort_keys=True, default=sorted)
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")


def merge_adapters(adapters: LoraModel) -> PreTrainedModel:
    """Return the plain model, with what the adapters have learned in its weights."""
    model = adapters.merge_and_unload()
    assert isinstance(model, PreTrainedModel)
    model.requires_grad_(True)
    return model


def _is_classifier(model: PreTrainedModel) -> bool:
    return type(model).__name__.endswith("ForSequenceClassification")


def _find_rows(model: PreTrainedModel, new_tokens: range) -> dict[str, list[int]] | None:
    """Return which rows of which embeddings are new; tied ones are one matrix."""
    if not new_tokens:
        return None
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    layers: list[nn.Module] = [inputs]
    if outputs is not None and outputs.weight is not inputs.weight:
        layers.append(outputs)
    names = [name for name, module in model.named_modules() if any(module is x for x in layers)]
    return {name: list(new_tokens) for name in names}
