"""Numbers of a sample: from its seed and number alone, and the same for ever."""

from __future__ import annotations

import numpy as np

from llmtrain_trainer.objective.draws import Draws


def test_they_follow_from_seed_number_and_purpose_alone() -> None:
    kinds = [(0, 0, True), (1, 0, True), (0, 1, True), (0, 0, False)]
    firsts = [
        Draws(seed, number, is_training=training).draw_fractions(4).tolist()
        for seed, number, training in kinds
    ]
    again = Draws(0, 0, is_training=True)
    assert [*again.draw_fractions(3), *again.draw_fractions(1)] == firsts[0]
    assert len({value for values in firsts for value in values}) == 16


def test_they_are_spread_evenly() -> None:
    draws = Draws(5, 7, is_training=True)
    assert abs(draws.draw_fractions(10_000).mean() - 0.5) < 0.02
    assert sorted(draws.draw_order(100)) == list(range(100))
    counts = np.bincount(draws.draw_indices(10_000, 4), minlength=4)
    assert counts.min() > 2300
