"""Which samples a step takes: a permutation of them for each epoch, computed and never stored.

Below: numpy. Above: `train` asks for the samples of a step; each rank takes its slice of them.

The order is a function of (seed, epoch) alone: it depends neither on the number of ranks nor on
what came before, so that a run resumes at any step in constant time.

The permutation is a balanced Feistel network over the smallest even number of bits that holds
every index, with cycle walking: an index that falls outside is permuted again until it is
inside (Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002). Its rounds mix by the
finaliser of SplitMix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators,
2014).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NUM_ROUNDS = 6
"""Four make a Feistel network of random functions pseudorandom; two more, because halves of a
few bits are far from random functions."""

WEYL_STEP = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio, odd: how SplitMix64 steps from state to state."""

MASK_64 = (1 << 64) - 1


def select_samples(step: int, batch_size: int, num_samples: int, seed: int) -> NDArray[np.int64]:
    """Return the samples of a step, in their global order.

    Args:
        step: optimizer step, counted from 0.
        batch_size: samples of a step, over all ranks.
        num_samples: samples of an epoch; a step may reach from one epoch into the next.
        seed: of the run.

    Returns:
        Indices below `num_samples` [batch_size].
    """
    assert num_samples > 0
    positions = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
    epochs, places = np.divmod(positions, num_samples)
    samples = np.empty_like(places)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        samples[chosen] = permute(places[chosen], num_samples, seed=seed, epoch=int(epoch))
    return samples


def permute(
    indices: NDArray[np.int64], num_samples: int, *, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Return where the permutation of (seed, epoch) takes each index [n] below `num_samples`."""
    half_bits = max(1, ((num_samples - 1).bit_length() + 1) // 2)
    keys = _derive_keys(seed, epoch)
    values = _encrypt(indices.astype(np.uint64), half_bits, keys)
    while (outside := values >= num_samples).any():
        values[outside] = _encrypt(values[outside], half_bits, keys)
    return values.astype(np.int64)


def _encrypt(
    values: NDArray[np.uint64], half_bits: int, keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Permute the values [n] below 2^(2 `half_bits`)."""
    bits, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> bits, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << bits) | right


def _derive_keys(seed: int, epoch: int) -> NDArray[np.uint64]:
    """Return one key for each round, from SplitMix64 begun at (seed, epoch)."""
    start = _mix(np.array([seed & MASK_64], dtype=np.uint64)) ^ np.uint64(epoch)
    steps = np.array([(i * WEYL_STEP) & MASK_64 for i in range(1, NUM_ROUNDS + 1)], dtype=np.uint64)
    return _mix(_mix(start) + steps)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the finaliser of SplitMix64 of each value; products wrap at 2^64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
