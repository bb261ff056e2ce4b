"""The order of samples: a permutation, by seed and epoch and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from llmtrain_trainer.training.order import permute, select_samples


@pytest.mark.parametrize("num_samples", [1, 2, 3, 4, 5, 16, 17, 255, 256, 257, 1000, 65_537])
def test_every_sample_is_taken_once(num_samples: int) -> None:
    for seed in (0, 1, 2**63 - 1):
        order = permute(np.arange(num_samples), num_samples, seed=seed, epoch=3)
        assert sorted(order) == list(range(num_samples))


def test_seed_and_epoch_change_the_order() -> None:
    orders = {
        tuple(permute(np.arange(50), 50, seed=seed, epoch=epoch))
        for seed in range(10)
        for epoch in range(10)
    }
    assert len(orders) == 100


def test_order_is_fixed_for_ever() -> None:
    # A run that was begun by an older version must go on with the same order.
    assert permute(np.arange(10), 10, seed=1, epoch=0).tolist() == [6, 8, 7, 5, 0, 3, 9, 2, 1, 4]


@pytest.mark.parametrize("num_samples", [7, 12])
def test_places_are_even_and_independent(num_samples: int) -> None:
    """Over many seeds, each sample is as often at each place, and follows each other one."""
    num_seeds = 6000
    orders = np.stack(
        [permute(np.arange(num_samples), num_samples, seed=s, epoch=0) for s in range(num_seeds)]
    )
    places = np.zeros((num_samples, num_samples))
    follows = np.zeros((num_samples, num_samples))
    for order in orders:
        places[np.arange(num_samples), order] += 1
        follows[order[:-1], order[1:]] += 1
    expected = num_seeds / num_samples
    assert np.abs(places - expected).max() < 6 * np.sqrt(expected)
    pairs = follows[~np.eye(num_samples, dtype=bool)]
    assert np.abs(pairs - expected).max() < 6 * np.sqrt(expected)


def test_large_epochs_need_no_table() -> None:
    samples = select_samples(10**6, 256, 10**12, seed=5)
    assert len(set(samples.tolist())) == 256
    assert ((samples >= 0) & (samples < 10**12)).all()
    assert samples.std() > 10**11


def test_steps_follow_each_other_over_epochs() -> None:
    num_samples, batch_size = 10, 4
    steps = [select_samples(step, batch_size, num_samples, seed=7) for step in range(10)]
    stream = np.concatenate(steps)
    epochs = stream.reshape(4, num_samples)
    assert all(sorted(epoch) == list(range(num_samples)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    # The same stream whatever the batch size, even one of several epochs.
    assert select_samples(0, 40, num_samples, seed=7).tolist() == stream.tolist()
