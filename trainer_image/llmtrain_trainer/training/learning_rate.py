"""How the learning rate goes: a linear warm-up, then a schedule.

Below: the contract. Above: `step`, which asks before each update.
"""

from __future__ import annotations

import math

from llmtrain_api.optimizer import OptimizerSpec, Schedule

MAX_DEFAULT_WARMUP_STEPS = 1000


def compute_learning_rate(
    step: int, spec: OptimizerSpec, total_steps: int, *, peak: float
) -> float:
    """Return the learning rate of step `step` (counted from 1): linear warm-up, then a schedule.

    Cosine: Loshchilov and Hutter 2017 (arXiv:1608.03983). Warm-up, stable, decay (wsd): Hu et al.
    2024 (arXiv:2404.06395); in a line, Hägele et al. 2024 (arXiv:2405.18392).
    """
    warmup = spec.warmup_steps
    if warmup is None:
        warmup = min(MAX_DEFAULT_WARMUP_STEPS, total_steps // 10)
    if step <= warmup:
        return peak * step / warmup
    if spec.schedule is Schedule.CONSTANT:
        return peak
    begin = warmup
    if spec.schedule is Schedule.WSD:
        begin = max(warmup, total_steps - round(spec.decay_fraction * total_steps))
    progress = min(1.0, max(0.0, (step - begin) / max(1, total_steps - begin)))
    left = 1.0 - progress
    if spec.schedule is Schedule.COSINE:
        left = 0.5 * (1.0 + math.cos(math.pi * progress))
    floor = spec.final_learning_rate_ratio
    return peak * (floor + (1.0 - floor) * left)
