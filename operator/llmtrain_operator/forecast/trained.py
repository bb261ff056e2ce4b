"""How many parameters a job trains, where it does not train all of its model.

Below: `size`, the contract. Above: `memory` needs gradients and optimizer state for these alone,
`outlook` says it. The layers are those of the networks that the trainer builds, by the names that
`training.lora.targets` knows them by; a test holds the counts to what `peft` adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llmtrain_api.lora import LoraSpec
from llmtrain_api.network import Architecture, Network
from llmtrain_api.training import TrainingSpec
from llmtrain_operator.forecast.size import FLOPS_PER_PARAMETER, ModelSize


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearLayer:
    """A linear layer, and how many there are of it."""

    name: str
    inputs: int
    outputs: int
    count: int


def count_trained(training: TrainingSpec, network: Network, size: ModelSize) -> int:
    """Return the parameters that are trained; rows of new tokens are not known, and not counted."""
    if training.lora is not None:
        return _count_adapters(training.lora, network)
    if training.freeze is None:
        return size.parameters
    frozen = min(training.freeze.layers, network.layers) * size.layer
    return size.parameters - frozen - (size.embeddings if training.freeze.embeddings else 0)


def count_token_flops(
    training: TrainingSpec, network: Network, size: ModelSize, trained: int
) -> float:
    """Return the operations of a forward and a backward pass for each token.

    A weight that stays as it is takes no gradient of its own, a third of its 6 operations. What is
    passed back through it is counted, as the trainer's MFU does, also below the last layer that is
    trained, where it could be left out.

    Args:
        training: what is trained.
        network: its shape.
        size: its counts.
        trained: parameters that are trained.
    """
    if training.lora is not None:
        frozen = size.flops_per_token - size.attention_flops
        return size.flops_per_token - frozen / 3.0 + FLOPS_PER_PARAMETER * trained
    if training.freeze is None:
        return size.flops_per_token
    frozen = min(training.freeze.layers, network.layers) * size.layer_flops
    frozen += size.output_flops if training.freeze.embeddings else 0.0
    return size.flops_per_token - frozen / 3.0


def _count_adapters(spec: LoraSpec, network: Network) -> int:
    """Return the parameters of two matrices beside each layer, and of DoRA's lengths."""
    total = 0
    for layer in list_linear_layers(network):
        if spec.targets is not None and not any(_is_end(end, layer.name) for end in spec.targets):
            continue
        each = spec.rank * (layer.inputs + layer.outputs) + (layer.outputs if spec.dora else 0)
        total += layer.count * each
    return total


def list_linear_layers(network: Network) -> Iterator[LinearLayer]:
    """Yield the linear layers of a network but the output, under the ends of their names."""
    width, inner, layers = network.hidden_size, network.inner_width, network.layers
    key_value = width // network.heads * network.key_value_heads
    shapes: dict[str, tuple[int, int]] = {}
    if network.architecture is Architecture.GPT2:
        shapes = {
            "attn.c_attn": (width, 3 * width),
            "attn.c_proj": (width, width),
            "mlp.c_fc": (width, inner),
            "mlp.c_proj": (inner, width),
        }
    elif network.architecture is Architecture.LLAMA:
        shapes = {
            "self_attn.q_proj": (width, width),
            "self_attn.k_proj": (width, key_value),
            "self_attn.v_proj": (width, key_value),
            "self_attn.o_proj": (width, width),
            "mlp.gate_proj": (width, inner),
            "mlp.up_proj": (width, inner),
            "mlp.down_proj": (inner, width),
        }
    elif network.architecture is Architecture.BERT:
        shapes = {
            **{f"attention.self.{name}": (width, width) for name in ("query", "key", "value")},
            "attention.output.dense": (width, width),
            "intermediate.dense": (width, inner),
            "output.dense": (inner, width),
        }
        yield LinearLayer(name="transform.dense", inputs=width, outputs=width, count=1)
    elif network.architecture is Architecture.T5:
        shapes = {"wi_0": (width, inner), "wi_1": (width, inner), "wo": (inner, width)}
        layers = 2 * layers  # of the encoder and of the decoder
        for name in ("q", "k", "v", "o"):  # a decoder's layer attends twice
            count = 3 * network.layers
            yield LinearLayer(name=name, inputs=width, outputs=width, count=count)
    for name, (inputs, outputs) in shapes.items():
        yield LinearLayer(name=name, inputs=inputs, outputs=outputs, count=layers)


def _is_end(end: str, name: str) -> bool:
    """Tell whether `peft` takes a name for one that ends so, at a dot."""
    return name == end or name.endswith(f".{end}") or end.endswith(f".{name}")
