"""Documents of one topic lie together on both maps."""

from __future__ import annotations

import random

import numpy as np
import pytest

from llmtrain_trainer.data_report.plane import MIN_DOCUMENTS, place_documents

TOPICS = (
    ["ship", "sea", "sail", "harbour", "wave", "captain", "anchor", "deck", "storm", "coast"],
    ["oven", "bread", "flour", "butter", "sugar", "recipe", "dough", "bake", "salt", "yeast"],
)


def write_texts(count: int) -> list[str]:
    draws = random.Random(0)
    return [" ".join(draws.choices(TOPICS[i % 2], k=30)) for i in range(count)]


def test_topics_are_told_apart() -> None:
    texts = write_texts(60)
    placed = place_documents(texts)
    assert placed is not None
    for points in placed:
        assert points.shape == (60, 2)
        distance = np.linalg.norm(points[:, None] - points[None], axis=2)
        np.fill_diagonal(distance, np.inf)
        nearest = distance.argmin(axis=1)
        assert np.mean(nearest % 2 == np.arange(60) % 2) > 0.9
    again = place_documents(texts)
    assert again is not None
    assert all(np.array_equal(a, b) for a, b in zip(placed, again, strict=True))


@pytest.mark.parametrize(
    "texts", [write_texts(MIN_DOCUMENTS - 1), ["the same"] * 40, ["…"] * 40, ["a"] * 30 + ["b"] * 9]
)
def test_what_makes_no_map_is_none(texts: list[str]) -> None:
    assert place_documents(texts) is None
