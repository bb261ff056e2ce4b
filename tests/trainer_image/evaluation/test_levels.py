"""What is said to be significant is so by chance no more often than the level allows.

Each test draws sets in which there is nothing to find, many times by one seed, and counts alarms.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.metrics import roc_auc_score

from llmtrain_api.findings import Part
from llmtrain_trainer.dataset.facts import Facts
from llmtrain_trainer.evaluation.classification.predictions import Predictions
from llmtrain_trainer.evaluation.error_analysis.gaps import PartError, compute_p_value
from llmtrain_trainer.evaluation.error_analysis.mismatch import compare_words, compute_auc_p_value
from llmtrain_trainer.evaluation.error_analysis.slices import LEVEL, compare_slices


def count_allowed(level: float, num_draws: int) -> float:
    """Return how many alarms at that level chance gives at most, in 999 of 1,000 simulations."""
    mean = level * num_draws
    return float(mean + 3.1 * np.sqrt(mean * (1 - level)))


def test_of_all_slices_together_one_is_worse_as_rarely_as_is_said() -> None:
    """Errors are spread at random over four sources, three labels and four quarters of lengths."""
    random = np.random.default_rng(0)
    alarms = 0
    for _ in range(200):
        true, size = random.integers(3, size=400), 400
        said = (true + (random.random(size) < 0.15)) % 3
        predictions = Predictions(
            labels=("a", "b", "c"),
            true=true,
            probabilities=np.eye(3)[said],
            facts=[Facts(source=int(source)) for source in random.integers(4, size=size)],
            lengths=random.integers(5, 200, size=size),
        )
        alarms += any(item.is_worse for item in compare_slices(predictions))
    assert alarms <= count_allowed(LEVEL, 200)


def test_a_rise_of_errors_by_chance_has_the_p_value_that_it_says() -> None:
    random = np.random.default_rng(0)
    p_values = []
    for first, second in zip(
        random.binomial(2000, 0.1, 2000), random.binomial(600, 0.1, 2000), strict=True
    ):
        before = PartError(part=Part.TRAIN, documents=2000, errors=int(first))
        after = PartError(part=Part.VALIDATION, documents=600, errors=int(second))
        p_values.append(compute_p_value(before, after))
    for level in (0.01, 0.05):
        # The normal approximation is a little too eager far out.
        assert np.sum(np.array(p_values) <= level) <= count_allowed(1.2 * level, 2000)


def test_parts_of_one_kind_are_told_apart_as_rarely_as_is_said() -> None:
    """By ranks that say nothing, and by words that are drawn from one distribution."""
    random = np.random.default_rng(0)
    is_held_out = np.arange(150) < 60
    by_rank, by_words = 0, 0
    for _ in range(400):
        auc = float(roc_auc_score(is_held_out, random.random(150)))
        by_rank += compute_auc_p_value(auc, 90, 60) <= 0.05
    for _ in range(60):
        counts = csr_matrix(random.poisson(0.2, size=(150, 40)))
        by_words += compare_words(counts, is_held_out, random)[2] <= 0.05
    assert by_rank <= count_allowed(0.05, 400)
    assert by_words <= count_allowed(0.05, 60)
