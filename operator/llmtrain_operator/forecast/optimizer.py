"""How many numbers an optimizer keeps beside the weights.

Below: `trained` (the linear layers of a network), `size`, the contract. Above: `memory`. A test
holds the counts to what the trainer's optimizers have.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmtrain_api.network import Architecture, Network
from llmtrain_api.optimizer import OptimizerKind
from llmtrain_api.training import TrainingSpec
from llmtrain_operator.forecast.size import ModelSize
from llmtrain_operator.forecast.trained import LinearLayer, list_linear_layers

HEAD_LAYERS = ("transform.dense",)
"""Linear layers that are in no block."""


def count_optimizer_numbers(
    training: TrainingSpec, network: Network, size: ModelSize, trained: int
) -> int:
    """Return the numbers of an optimizer's state.

    AdamW has two for each weight, Muon one for each of a block's matrices, Adafactor one for each
    row and column of a matrix; that of a part of the weights is reckoned by its share of all.

    Args:
        training: what is trained, and how.
        network: its shape.
        size: its counts.
        trained: parameters that are trained.
    """
    kind = training.optimizer.kind
    if kind is OptimizerKind.ADAMW:
        return 2 * trained
    matrices = list(_list_matrices(network))
    if kind is OptimizerKind.MUON:
        hidden = sum(_count_weights(layer) for layer in matrices if layer.name not in HEAD_LAYERS)
        if training.lora is not None:
            return trained  # adapters are matrices of blocks
        if training.freeze is not None:
            hidden = hidden * max(0, network.layers - training.freeze.layers) // network.layers
        return 2 * trained - hidden
    width = network.hidden_size
    factored = sum(layer.count * (layer.inputs + layer.outputs) for layer in matrices)
    factored += size.embeddings // width + width
    weights = sum(_count_weights(layer) for layer in matrices) + size.embeddings
    whole = factored + size.parameters - weights
    return whole * trained // size.parameters


def _list_matrices(network: Network) -> Iterator[LinearLayer]:
    if network.architecture is Architecture.LSTM:
        width = network.hidden_size
        yield LinearLayer(name="lstm", inputs=width, outputs=4 * width, count=2 * network.layers)
    yield from list_linear_layers(network)


def _count_weights(layer: LinearLayer) -> int:
    return layer.count * layer.inputs * layer.outputs
