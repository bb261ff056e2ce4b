"""What follows from one number, and from a part of a shape."""

from __future__ import annotations

from typing import Any

import pytest

from llmtrain_api.network import Architecture, ModelSpec


@pytest.mark.parametrize("size", [1_000_000, 10_000_000, 85_000_000, 1_300_000_000, 7_000_000_000])
@pytest.mark.parametrize("architecture", list(Architecture))
def test_the_shape_comes_near_the_size(architecture: Architecture, size: int) -> None:
    network = ModelSpec(architecture=architecture, size=size).resolve()
    assert network.block_parameters == pytest.approx(size, rel=0.1)
    assert network.hidden_size % network.heads == 0


@pytest.mark.parametrize(
    ("given", "layers", "width", "heads"),
    [
        ({}, 6, 384, 6),
        ({"size": 85_000_000}, 12, 768, 12),  # GPT-2
        ({"size": 85_000_000, "layers": 6}, 6, 1088, 17),
        ({"size": 85_000_000, "hidden_size": 512}, 27, 512, 8),
        ({"size": 85_000_000, "hidden_size": 256}, 108, 256, 8),
        ({"size": 85_000_000, "heads": 16}, 12, 768, 16),
        ({"size": 85_000_000, "layers": 2, "heads": 4, "hidden_size": 64}, 2, 64, 4),
        ({"layers": 2, "hidden_size": 96}, 2, 96, 6),
    ],
)
def test_what_is_given_stays(given: dict[str, Any], layers: int, width: int, heads: int) -> None:
    network = ModelSpec(**given).resolve()
    assert (network.layers, network.hidden_size, network.heads) == (layers, width, heads)


@pytest.mark.parametrize(
    ("size", "expected"),
    [(None, 1e-3), (1_000_000, 1.32e-3), (85_000_000, 6.9e-4), (10**11, 6e-5)],
)
def test_larger_models_learn_slower(size: int | None, expected: float) -> None:
    assert ModelSpec(size=size).suggest_learning_rate() == pytest.approx(expected, rel=0.01)
